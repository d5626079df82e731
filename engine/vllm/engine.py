"""An engine whose model runs in a vLLM server, which it starts or finds running.

The engine process's thread submits and takes tokens; a thread with an event loop talks to the server. What
runs is known here, not there: a request takes its slot and its blocks when it is submitted, and gives them
back when it ends, so that nothing is claimed that would wait in vLLM's own queue.

A server that is gone, hangs or has become another one can't be used any more: `step` raises, and the engine
process is replaced by one that starts or finds a server again.
"""

import asyncio
import math
import os
import queue
import time
from collections.abc import Iterable, Iterator

from ..config import EngineConfig
from ..errors import RequestError, ServerLost
from ..parameters import computable, refuse_unknown
from ..protocol import EngineModelInfo, EngineStats
from ..request import FinishReason, Progress, Request
from .answering import RunningAnswer
from .errors import Interrupted, ServerRefused
from .facts import ServerLoad, load_of
from .server import VllmServer

WAIT_S = 0.004
"""How long a step waits for a token: the engine process has nothing else to do, but for new jobs."""

WATCH_S = 1.0
"""How often the server's metrics are read. A server takes longer to start, so none restarts unnoticed."""

_STRANGE = 3
"""How many looks in a row may fail on a server that is busy."""


class VllmEngine:
    """A vLLM server as an engine.

    Attributes:
        model_info: what the model is; the server says its context.
        capacity_tokens: the maximum number of tokens of one request.
    """

    def __init__(self, config: EngineConfig, server: VllmServer, model_info: EngineModelInfo) -> None:
        self.model_info, self._server, self._config = model_info, server, config
        self._facts = facts = server.facts
        self.capacity_tokens = min(
            facts.context_tokens,
            facts.blocks * facts.block_tokens,
            config.max_context_tokens or facts.context_tokens,  # a running server wasn't told
        )
        self._answers: dict[str, RunningAnswer] = {}
        self._news: queue.SimpleQueue[tuple[RunningAnswer, Progress] | None] = queue.SimpleQueue()
        self._later: list[tuple[RunningAnswer, Progress]] = []
        self._lost: str | None = None
        self._load = ServerLoad(facts.started, 0, 0, 0.0, 0, 0, 0)
        self._heard = time.monotonic()
        self._steps = self._step_tokens = 0
        self._started = 0
        self._name = f"headrace-{os.urandom(4).hex()}"
        self._closed = False
        self._watch = server.start(self._keep_watch())

    # What runs -------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> None:
        """Start a request."""
        params = computable(request.params, self.model_info.vocab_size)
        if request.id in self._answers:
            raise RequestError("id", f"{request.id!r} is already in the engine")
        if request.pooling is not None:
            raise RequestError("pooling", "a vLLM server that generates gives no vectors")
        if request.adapter is not None:
            raise RequestError("adapter", "this engine computes the model alone")
        if request.prompt_logprobs is not None:
            raise RequestError(
                "prompt_logprobs", "vLLM doesn't stream them, so this engine doesn't give them"
            )
        if not request.prompt_ids:
            raise RequestError("prompt_ids", "must have at least one token")
        refuse_unknown("prompt_ids", request.prompt_ids, self.model_info.vocab_size)
        refuse_unknown("output_ids", request.output_ids, self.model_info.vocab_size)
        prompt = len(request.prompt_ids)
        if prompt + min(1, params.max_tokens) > self.capacity_tokens:
            raise RequestError(
                "prompt_ids",
                f"the prompt has {prompt} tokens; at most {self.capacity_tokens} fit here, prompt and output "
                "together",
            )
        most = min(params.max_tokens, self.capacity_tokens - prompt)
        ends = frozenset(params.stop_token_ids)
        if not params.ignore_eos:
            ends |= frozenset(self.model_info.eos_token_ids)
        answer = RunningAnswer(
            request, params, ends, most, self._server.noise_by_position, list(request.output_ids)
        )
        if not self._answers:
            self._heard = time.monotonic()
        self._answers[request.id] = answer
        self._started += 1
        self._server.start(self._run(answer, f"{self._name}-{self._started}"))

    def cancel(self, request_id: str) -> bool:
        """End a request; the server is told to abort it."""
        answer = self._answers.pop(request_id, None)
        if answer is None:
            return False
        self._server.call(self._stop, answer)
        return True

    def step(self) -> list[Progress]:
        """Take the tokens that have arrived, waiting a little for the first.

        Raises:
            ServerLost: the server is gone, hangs, or isn't the one that was loaded.
        """
        if not self._answers:
            self._raise_if_lost()
            return []
        found: dict[str, Progress] = {}
        later: list[tuple[RunningAnswer, Progress]] = []
        for answer, progress in self._arrived():
            name = answer.request.id
            if self._answers.get(name) is not answer:  # cancelled meanwhile
                continue
            if name in found:  # a token for each in a step, so that no answer comes and goes within one
                later.append((answer, progress))
                continue
            found[name] = progress
        for name, progress in found.items():
            if progress.finish_reason is not None:
                del self._answers[name]
        self._later = later
        now = time.monotonic()
        if found:
            self._heard = now
            self._steps += 1
            self._step_tokens += sum(len(each.token_ids) for each in found.values())
            return list(found.values())
        self._raise_if_lost()
        if now - self._heard > self._config.server.stall_s:
            raise ServerLost(
                f"vLLM has sent no token for {self._config.server.stall_s:g} s, though "
                f"{len(self._answers)} requests run"
            )
        return []

    def _arrived(self) -> Iterator[tuple[RunningAnswer, Progress]]:
        yield from self._later
        wait = not self._later
        while True:
            try:
                news = self._news.get(timeout=WAIT_S) if wait else self._news.get_nowait()
            except queue.Empty:
                return
            wait = False
            if news is not None:  # None wakes the step because the server is lost
                yield news

    @property
    def has_work(self) -> bool:
        """Whether requests run here."""
        return bool(self._answers)

    def end_also_at(self, token_ids: Iterable[int]) -> None:
        """Let these tokens end a text too."""
        from dataclasses import replace

        ends = {*self.model_info.eos_token_ids, *token_ids}
        self.model_info = replace(self.model_info, eos_token_ids=tuple(sorted(ends)))

    # Room ------------------------------------------------------------------------------------------------

    @property
    def page_size(self) -> int:
        """Tokens per block of the server's KV cache."""
        return self._facts.block_tokens

    @property
    def free_slots(self) -> int:
        """How many more requests may run, none if other users' requests wait there already."""
        if self._lost is not None or self._load.waiting > 0:
            return 0
        return max(0, self._config.max_batch_size - len(self._answers))

    @property
    def free_tokens(self) -> int:
        """What neither the requests here nor those of the server's other users hold."""
        held = sum(map(self._blocks, self._answers.values()))
        # What the server reports is up to a second old, and includes what has run here.
        used = (
            math.ceil(self._load.used * self._facts.blocks) if self._load.running > len(self._answers) else 0
        )
        return max(0, self._facts.blocks - max(held, used)) * self.page_size

    def held_tokens(self, request_id: str) -> int:
        """The blocks that a request holds, in tokens."""
        answer = self._answers.get(request_id)
        return 0 if answer is None else self._blocks(answer) * self.page_size

    def _blocks(self, answer: RunningAnswer) -> int:
        return -(-(len(answer.request.prompt_ids) + len(answer.output_ids)) // self.page_size)

    def stats(self) -> EngineStats:
        """What runs here, and the server's counters."""
        held = sum(map(self._blocks, self._answers.values()))
        tokens = sum(len(each.request.prompt_ids) + len(each.output_ids) for each in self._answers.values())
        return EngineStats(
            running=len(self._answers),
            waiting=0,
            pages_total=self._facts.blocks,
            pages_free=max(0, self._facts.blocks - held),
            pages_cached=0,
            pages_held=held,
            tokens_held=tokens,
            preemptions=self._load.preemptions,
            prefix_query_tokens=self._load.prefix_queries,
            prefix_hit_tokens=self._load.prefix_hits,
            steps=self._steps,
            step_tokens=self._step_tokens,
            host_s=0.0,
        )

    def check(self) -> None:
        """Assert that what ended gave its room back, and that the server is the one that was loaded."""
        self._raise_if_lost()
        for name, answer in self._answers.items():
            assert answer.request.id == name

    def close(self) -> None:
        """Stop what runs, and the server if it was started here."""
        self._closed = True
        for request_id in list(self._answers):
            self.cancel(request_id)
        self._watch.cancel()
        self._server.close()

    # In the loop's thread --------------------------------------------------------------------------------

    async def _run(self, answer: RunningAnswer, name: str) -> None:
        answer.task = asyncio.current_task()
        if self._answers.get(answer.request.id) is not answer:  # cancelled before it began
            return

        def tell(progress: Progress) -> None:
            self._news.put((answer, progress))

        try:
            end = answer._end()
            if end is not None:  # its last worker had written all but the end
                tell(Progress(answer.request.id, [], [], end))
                return
            await answer.run(self._server.http, self._facts, self.model_info.vocab_size, tell, name)
        except Interrupted as error:
            if await self._is_well():
                why = f"vLLM doesn't answer it: {error}"
                tell(Progress(answer.request.id, [], [], FinishReason.ERROR, error=why))
        except Exception as error:  # of a constraint, say
            why = f"{type(error).__name__}: {error}"
            tell(Progress(answer.request.id, [], [], FinishReason.ERROR, error=why))

    def _stop(self, answer: RunningAnswer) -> None:
        if answer.task is not None:
            answer.task.cancel()

    async def _keep_watch(self) -> None:
        failures = 0
        while self._lost is None:
            await asyncio.sleep(WATCH_S)
            why = await self._look()
            failures = failures + 1 if why else 0
            if why and (self._server.ended or failures >= _STRANGE):
                self._lose(why)

    async def _is_well(self) -> bool:
        why = await self._look()
        if why:
            self._lose(why)
        return why is None

    async def _look(self) -> str | None:
        """Read the metrics; return what is wrong with the server."""
        ended = self._server.ended
        if ended:
            return ended
        try:
            await self._server.http.call("/health")
            load = load_of((await self._server.http.call("/metrics")).decode(errors="replace"))
        except (Interrupted, ServerRefused) as error:
            return f"{self._server.address} doesn't answer: {error}"
        if load.started != self._facts.started:
            self._lose(f"{self._server.address} has restarted")
            return self._lost
        self._load = load
        return None

    def _lose(self, why: str) -> None:
        if self._lost is None and not self._closed:
            self._lost = why
            self._news.put(None)  # wakes the step

    def _raise_if_lost(self) -> None:
        if self._lost is not None:
            raise ServerLost(self._lost)
