"""Continuous batching over token ids: submit requests, call `step` repeatedly, take the new tokens."""

import logging
import math
import time
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from .adapters.store import AdapterStore
from .config import EngineConfig
from .errors import ModelError, RequestError, is_of_the_device, is_out_of_memory
from .launching import launcher_for
from .loading import load_executor
from .pacing import Load, Pacer
from .pages import PagePool
from .parameters import SamplingParams, computable, refuse_unknown
from .pooling import PooledChunk, vector_of
from .protocol import EngineModelInfo, EngineStats
from .request import Adapter, FinishReason, Progress, Request
from .sampling.constraint import refuse_second_mask
from .sampling.sampled import Sampled
from .scheduler import ScheduledSequence, Scheduler
from .sequence import Sequence
from .step import Flight
from .step_input import Executor

MOST_BLAMED = 8
"""Number of sequences in a row that may fail alone without a successful step in between. After more than that
the sequences aren't to blame: the engine can't compute."""

_UNSAMPLED = (
    "no next token can be chosen: the model's logits contain NaN or infinity, or every token is ruled out; "
    "if the model overflows in its dtype, another dtype may help"
)

_NO_SCORER = (
    "the model has no head that scores; serve one with a classification head of one label, or a reranker "
    "that answers with one of two words, with classifier_from_token"
)

_UNPOOLED = (
    "its vector or score contains NaN or infinity; if the model overflows in its dtype, another dtype may "
    "help"
)

logger = logging.getLogger(__name__)


class Engine:
    """One model on one device.

    Not thread-safe: one thread submits, steps and cancels.

    Attributes:
        model_info: what the model is and what it accepts.
        page_size: tokens per KV page.
        capacity_tokens: the maximum number of tokens, prompt and output, of one request.
    """

    def __init__(self, config: EngineConfig, executor: Executor | None = None) -> None:
        """Load the model and reserve the KV cache.

        Args:
            config: what to load and how large to be.
            executor: computes the steps; made from `config` by default.

        Raises:
            ModelError: the model can't be loaded or doesn't fit; the message says why.
        """
        self._executor = executor or load_executor(config)
        self.model_info: EngineModelInfo = self._executor.model_info
        self.page_size = config.page_size
        pool = PagePool(self._executor.num_pages, config.page_size)
        # A single request may fill the whole pool, but no more: it would preempt itself again and again.
        self.capacity_tokens = min(self.model_info.context_tokens, pool.total * config.page_size)
        objective_s = config.token_time_objective_s
        self._pacer = None if objective_s is None else Pacer(objective_s)
        # An executor that was given may know of no adapters.
        self._adapters: AdapterStore | None = getattr(self._executor, "adapters", None)
        self._scheduler = Scheduler(
            pool, config.max_batch_size, config.step_tokens, config.prefix_cache, self._pacer, self._adapters
        )
        self._eos = frozenset(self.model_info.eos_token_ids)
        self._launcher = launcher_for(config, self._executor, self.capacity_tokens, self._eos)
        self._launched: tuple[Flight, Load | None] | None = None
        self._max_batch_size = config.max_batch_size
        self._sequences: dict[str, Sequence] = {}
        self._done: list[Progress] = []
        self._arrivals = self._steps = self._step_tokens = self._blamed = 0
        self._step_s = 0.0

    def end_also_at(self, token_ids: Iterable[int]) -> None:
        """Let these tokens end a text too; a tokenizer may name one that config.json doesn't.

        Only for an engine that doesn't run anything yet.
        """
        self._eos |= {token_id for token_id in token_ids if 0 <= token_id < self.model_info.vocab_size}
        self.model_info = replace(self.model_info, eos_token_ids=tuple(sorted(self._eos)))
        self._launcher.end_at(self._eos)

    # Requests -------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Queue a request, which starts in a later step.

        Raises:
            RequestError: it could never run here; other requests are unaffected.
        """
        try:
            self._submit(request)
        except RequestError:
            raise
        except Exception as error:  # caused by the request's own values
            logger.exception("refused a request that can't be read")
            raise RequestError("request", f"it can't be read ({type(error).__name__})") from error

    def _submit(self, request: Request) -> None:
        self._refuse_what_can_not_run(request)
        request = replace(request, params=computable(request.params, self.model_info.vocab_size))
        if request.pooling is not None:
            # Nothing is sampled; with one more token it has not ended before its prompt has been computed.
            own = "last" if request.pooling.score else self.model_info.pooling
            pooling = replace(request.pooling, type=request.pooling.type or own)
            request = replace(request, params=SamplingParams(max_tokens=1), pooling=pooling)
        self._arrivals += 1
        sequence = Sequence(
            request,
            tokens=request.prompt_ids + request.output_ids,
            arrival=self._arrivals,
            limit=self.capacity_tokens,
        )
        reason = sequence.finish_reason(self._eos)
        if reason is not None:  # it was interrupted between its last token and the report of its end
            if sequence.scored == len(request.prompt_ids):
                self._done.append(Progress(request.id, [], [], reason))
                return
            sequence = sequence.of_its_prompt(reason)
        self._scheduler.add(sequence)
        self._sequences[request.id] = sequence

    def _refuse_what_can_not_run(self, request: Request) -> None:
        if request.id in self._sequences:
            raise RequestError("id", f"{request.id!r} is already in the engine")
        if not request.prompt_ids:
            raise RequestError("prompt_ids", "the prompt has no tokens")
        if len(request.prompt_ids) >= self.capacity_tokens:
            raise RequestError(
                "prompt_ids",
                f"the prompt has {len(request.prompt_ids)} tokens; at most {self.capacity_tokens} fit here, "
                "prompt and output together",
            )
        if request.prompt_logprobs is not None and request.prompt_logprobs < 0:
            raise RequestError("prompt_logprobs", "must not be negative; 0 reports the prompt's tokens alone")
        if not 0 <= request.unscored < len(request.prompt_ids):
            raise RequestError(
                "unscored",
                f"is {request.unscored}, but must leave at least one of {len(request.prompt_ids)} tokens",
            )
        vocab = self.model_info.vocab_size
        refuse_unknown("prompt_ids", request.prompt_ids, vocab)
        refuse_unknown("output_ids", request.output_ids, vocab)
        if request.pooling is None and not self.model_info.generates:
            only = "embed and score" if self.model_info.task == "score" else "embed"
            raise RequestError("model", f"it has no head that predicts tokens, and can only {only}")
        if request.pooling is not None:
            request.pooling.check(self.model_info.hidden_size)
            if request.pooling.score and self.model_info.task != "score":
                raise RequestError("score", _NO_SCORER)
            if request.output_ids:
                raise RequestError("output_ids", "a prompt that is pooled has no output")
            if request.prompt_logprobs is not None:
                raise RequestError("prompt_logprobs", "a prompt that is pooled has no logits")
        refuse_second_mask(request)
        if request.adapter is not None:
            try:
                self.load_adapter(request.adapter)
            except ModelError as error:
                raise RequestError("adapter", str(error)) from error

    def load_adapter(self, adapter: Adapter) -> None:
        """Check that an adapter can be computed with, and keep it in memory if there is room.

        Requests do that themselves; whoever does it before, in any thread, spares the steps waiting for it.

        Raises:
            ModelError: it can't be; the message names it, its folder and the way out.
        """
        if self._adapters is None:
            raise ModelError(f"adapter {adapter.name!r} can't be loaded: max_adapters is 0; raise it")
        if not adapter.fingerprint:
            raise ModelError(f"adapter {adapter.name!r} can't be loaded: it has no fingerprint")
        self._adapters.load(adapter)

    def cancel(self, request_id: str) -> bool:
        """End a request without reporting progress; False if it isn't here."""
        sequence = self._sequences.pop(request_id, None)
        if sequence is None:
            return False
        self._scheduler.remove(sequence)
        return True

    # Steps ----------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether `step` has something to do."""
        return bool(self._sequences or self._done)

    def step(self) -> list[Progress]:
        """Compute one step; return the progress that it, or the one before, made with each sequence."""
        started = time.perf_counter()
        progress, self._done = self._done, []
        progress += self._step()
        self._step_s += time.perf_counter() - started
        return progress

    def _step(self) -> list[Progress]:
        """Launch a step and read its tokens or, if steps overlap, those of the step before."""
        # Overlapped, the order is: plan N + 1, launch it, read N, and only then choose those tokens of N + 1
        # that depend on N's. Short of pages it is read first, since one of its tokens may end a sequence
        # whose pages the plan would otherwise take from another.
        progress = self._land() if self._scheduler.short_of_pages else []
        plan = self._scheduler.schedule()
        progress += self._fail_without_adapters()
        try:
            launched = self._launch(plan) if plan else None
        except Exception as error:
            if is_of_the_device(error):
                raise
            progress += self._land()
            return progress + self._again(plan, error)
        if self._launcher.overlapped:
            progress += self._land()
            self._launched = launched
            if launched is not None:
                try:
                    launched[0].draw()
                except Exception as error:
                    if is_of_the_device(error):
                        raise
                    self._retract(plan, launched[0])
                    return progress + self._again(plan, error)
            return progress
        self._launched = launched
        return progress + self._land()

    def _fail_without_adapters(self) -> list[Progress]:
        """End the sequences whose adapters can't be loaded any more."""
        failed, self._scheduler.failed = self._scheduler.failed, []
        return [self._fail(sequence, sequence.failure) for sequence in failed]

    def _launch(self, plan: list[ScheduledSequence]) -> tuple[Flight, Load | None]:
        """Start the planned step. If it raises, the sequences are unchanged."""
        flight = self._launcher.launch(plan)
        self._blamed = 0
        # From here on the step is on its way: what the scheduler counts as computed is, by the time that any
        # step planned later runs.
        for scheduled in plan:
            self._scheduler.computed(scheduled)
        for sequence in flight.sequences:
            sequence.unread += 1
        self._scheduler.expand()
        self._steps += 1
        self._step_tokens += flight.tokens
        return flight, None if self._pacer is None else self._pacer.load

    def _retract(self, plan: list[ScheduledSequence], flight: Flight) -> None:
        """Take back a launched step of which no token could be chosen.

        The keys and values that it has written stay: to compute it once more writes the same.
        """
        self._launched = None
        for scheduled in self._still_here(plan):
            scheduled.sequence.computed -= scheduled.count
        for sequence in flight.sequences:
            sequence.unread -= 1

    def _again(self, plan: list[ScheduledSequence], error: Exception) -> list[Progress]:
        """What becomes of a step that failed, if not for the device's sake."""
        if is_out_of_memory(error):
            return self._do_with_less(plan, error)
        return self._single_out(plan, error)

    def _land(self) -> list[Progress]:
        """Read the step that was launched but not read yet, if there is one."""
        launched, self._launched = self._launched, None
        if launched is None:
            return []
        flight, load = launched
        # The time is taken before anything else is done: it stands for when streams could have their tokens.
        sampled, ended_s = flight.read(), time.perf_counter()
        progress = [
            *self._report_scores(sampled),
            *self._advance(flight.sequences, sampled),
            *self._pool(flight.pooled, sampled),
        ]
        # A step that no sequence waited for may have been left since the engine last had work: ignore its
        # time.
        if self._pacer is not None and load is not None and (progress or not flight.sequences):
            self._pacer.measured(load, ended_s)
        return progress

    def _do_with_less(self, plan: list[ScheduledSequence], error: Exception) -> list[Progress]:
        """A step didn't fit the device's memory, so the next one gets fewer sequences or tokens.

        Keys and values that the step has written are written again by the next, so giving up halfway loses
        nothing. A sequence of which a single token doesn't fit alone is ended.
        """
        if self._scheduler.shrink(plan):
            return []
        return [self._blame(scheduled.sequence, error) for scheduled in self._still_here(plan)]

    def _single_out(self, plan: list[ScheduledSequence], error: Exception) -> list[Progress]:
        """A step failed, but not for lack of memory: halve it until the sequences that fail alone are found.

        These are ended; all others get their tokens. No sequence is to blame if a step without any of them
        fails too, or if one after another fails.

        Raises:
            Exception: `error`, if no sequence can be blamed for it.
        """
        self._refuse_to_blame(error)
        progress: list[Progress] = []
        parts = [plan]
        while parts:
            part = self._still_here(parts.pop())
            if not part:
                continue
            try:
                flight, _ = self._launch(part)
            except Exception as failure:
                if is_of_the_device(failure):
                    raise
                if is_out_of_memory(failure):
                    progress += self._do_with_less(part, failure)
                elif len(part) > 1:
                    # The first half is popped next: sequences get their tokens in order. One to blame among n
                    # costs about 2 log2 n launches.
                    parts += [part[len(part) // 2 :], part[: len(part) // 2]]
                else:
                    progress.append(self._blame(part[0].sequence, failure))
            else:
                self._launched = flight, None
                progress += self._land()
        return progress

    def _refuse_to_blame(self, error: Exception) -> None:
        try:
            self._launcher.probe()
        except Exception as own:
            raise error from own

    def _blame(self, sequence: Sequence, error: Exception) -> Progress:
        self._blamed += 1
        if self._blamed > MOST_BLAMED:
            raise error
        logger.error("the step of one sequence failed; ending it", exc_info=error)
        if is_out_of_memory(error):
            return self._fail(sequence, "no memory was left to compute its next token")
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        return self._fail(sequence, f"its next token could not be computed: {reason}")

    def _still_here(self, plan: list[ScheduledSequence]) -> list[ScheduledSequence]:
        """The plan without the chunks of sequences that have ended since it was made."""
        held = self._sequences
        return [
            scheduled for scheduled in plan if held.get(scheduled.sequence.request.id) is scheduled.sequence
        ]

    def _fail(self, sequence: Sequence, why: str) -> Progress:
        """End a sequence as failed; nothing that it computed can be found in the prefix cache."""
        del self._sequences[sequence.request.id]
        self._scheduler.remove(sequence, findable=False)
        return Progress(sequence.request.id, [], [], FinishReason.ERROR, error=why)

    def _report_scores(self, sampled: Sampled) -> Iterable[Progress]:
        for sequence, entries in sampled.scores:
            request_id = sequence.request.id
            if self._sequences.get(request_id) is sequence:
                sequence.scored += len(entries)
                yield Progress(request_id, [], [], None, sequence.cached_tokens or 0, prompt_logprobs=entries)

    def _advance(self, sequences: list[Sequence], sampled: Sampled) -> Iterable[Progress]:
        logprobs = sampled.logprobs or [None] * len(sequences)
        held = self._sequences
        for sequence, token_id, entry in zip(sequences, sampled.token_ids.tolist(), logprobs, strict=True):
            request_id = sequence.request.id
            # Compared by identity: a cancelled request's id may have been submitted again in between.
            if held.get(request_id) is not sequence:  # it ended after this step was launched
                continue
            sequence.unread -= 1
            if token_id < 0:
                yield self._fail(sequence, sequence.failure or _UNSAMPLED)
                continue
            reason = sequence.ends
            if reason is None:
                sequence.tokens.append(token_id)
                reason = sequence.finish_reason(self._eos)
            if reason is not None:
                del held[request_id]
                self._scheduler.remove(sequence)
            if sequence.ends is not None:  # only its prompt was asked for
                yield Progress(request_id, [], [], reason, sequence.cached_tokens or 0)
                continue
            entries = [] if entry is None else [entry]
            yield Progress(request_id, [token_id], entries, reason, sequence.cached_tokens or 0)

    def _pool(self, chunks: list[PooledChunk], sampled: Sampled) -> Iterable[Progress]:
        held = self._sequences
        for chunk, values in zip(chunks, () if sampled.pooled is None else sampled.pooled, strict=True):
            sequence, request = chunk.sequence, chunk.sequence.request
            if held.get(request.id) is not sequence:
                continue
            total = chunk.add(values)
            if not chunk.last:
                continue
            assert request.pooling is not None
            vector = score = None
            if request.pooling.score:
                assert self._executor.scorer is not None
                score = self._executor.scorer.score(total)
            else:
                vector = vector_of(request.pooling, total, len(request.prompt_ids))
            if not np.isfinite(total).all() or (score is not None and not math.isfinite(score)):
                yield self._fail(sequence, _UNPOOLED)
                continue
            del held[request.id]
            self._scheduler.remove(sequence)
            cached = sequence.cached_tokens or 0
            yield Progress(request.id, [], [], FinishReason.STOP, cached, vector=vector, score=score)

    # Room -----------------------------------------------------------------------------------------

    @property
    def free_slots(self) -> int:
        """Number of requests that still fit the batch, besides those that wait."""
        return max(0, self._max_batch_size - len(self._sequences))

    @property
    def free_tokens(self) -> int:
        """Number of tokens that fit the free pages, less what the waiting requests' known tokens need."""
        scheduler = self._scheduler
        # One token more than is known: the next one needs its place, too.
        waiting = sum(scheduler.pages_for(len(sequence.tokens) + 1) for sequence in scheduler.waiting)
        return max(0, scheduler.pool.free - waiting) * self.page_size

    def held_tokens(self, request_id: str) -> int:
        """How many more tokens would fit if this request were cancelled; 0 if it isn't here."""
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return 0
        if sequence.row < 0:
            return self._scheduler.pages_for(len(sequence.tokens) + 1) * self.page_size
        # Pages shared with another sequence would not become free.
        return sum(page.refs == 1 for page in sequence.pages) * self.page_size

    def stats(self) -> EngineStats:
        """The engine's state and counters."""
        scheduler = self._scheduler
        pool = scheduler.pool
        return EngineStats(
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            pages_total=pool.total,
            pages_free=pool.free,
            pages_cached=pool.cached,
            pages_held=pool.total - pool.free,
            tokens_held=sum(sequence.computed for sequence in scheduler.running),
            preemptions=scheduler.preemptions,
            prefix_query_tokens=scheduler.prefix_query_tokens,
            prefix_hit_tokens=scheduler.prefix_hit_tokens,
            steps=self._steps,
            step_tokens=self._step_tokens,
            pages_shared=pool.shared,
            host_s=max(0.0, self._step_s - self._launcher.device_s),
        )

    def check(self) -> None:
        """Assert that pages and rows are conserved."""
        self._scheduler.check()
        assert len(self._sequences) == len(self._scheduler.running) + len(self._scheduler.waiting)
