"""What the engine is to do for a job that has been read: a request for each answer that has not ended."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from ....engine import Adapter, ModelError, Pooling, Request
from ....schemas.adapters import JobAdapter
from ....schemas.embed import Embed
from ....schemas.job import JobClass
from ....schemas.wire import WireJob
from ..choice import request_id
from ..prepared import Prepared, Replay
from ..text import Follower, GrammarError, Grammars, TokenText
from ..text.guide import Guidance, Guide
from .sampling import sampling_params

_PRIORITY = {job_class: priority for priority, job_class in enumerate(JobClass)}


class Requests:
    """Makes the engine's requests.

    Args:
        tokenizer: says which bytes tokens stand for.
        grammars: compiles those that answers must follow.
        load_adapter: loads an adapter; None if none is served.
    """

    def __init__(
        self, tokenizer: TokenText, grammars: Grammars, load_adapter: Callable[[Adapter], None] | None
    ) -> None:
        self._tokenizer, self._grammars, self._load_adapter = tokenizer, grammars, load_adapter

    def of(self, job_id: str, job: WireJob, prepared: Prepared) -> list[Request]:
        """Those of a job. The first asks for what its prompt is asked for, too.

        Raises:
            GrammarError: the log's tokens don't follow the grammar.
            ModelError: its adapter can't be loaded.
        """
        requests = [
            self._request(job_id, number, job, prepared, replay)
            for number, replay in enumerate((prepared.replay, *prepared.others))
            if replay.finish_reason is None
            and not (replay.stopped and (number or job.prompt_logprobs is None))
        ]
        # The answer that asks for them has ended.
        if job.prompt_logprobs is not None and all(each.prompt_logprobs is None for each in requests):
            requests.insert(0, self._request(job_id, 0, job, prepared, prepared.replay))
        return requests

    def _request(self, job_id: str, number: int, job: WireJob, prepared: Prepared, replay: Replay) -> Request:
        """What the engine is to do for one of a job's answers."""
        params = sampling_params(job, job_id, prepared.bad_words, number)
        # All that is missing then is what the prompt is asked for.
        ended = replay.stopped or replay.finish_reason is not None
        return Request(
            id=request_id(job_id, number),
            prompt_ids=prepared.prompt_ids,
            params=replace(params, max_tokens=0) if ended else params,
            output_ids=[] if ended else list(replay.token_ids),
            # The first answer's request asks for what all of them have in common.
            prompt_logprobs=None if number else job.prompt_logprobs,
            unscored=len(prepared.prompt_ids) - scored if (scored := prepared.continuation_tokens) else 0,
            priority=_PRIORITY[job.job_class],
            # Prefixes are shared within a tenant only: how fast a prompt is read would tell others what was
            # sent.
            cache_salt=job.tenant,
            pooling=Pooling(score=True) if prepared.scores else _pooling(job.embed),
            constraint=None if ended else self._follower(prepared, replay),
            adapter=self._adapter(job.adapter),
        )

    def _adapter(self, asked: JobAdapter | None) -> Adapter | None:
        """The job's adapter, which is loaded here, so that no step waits for it.

        Raises:
            ModelError: it can't be; that concerns this job alone.
        """
        if asked is None:
            return None
        if self._load_adapter is None:
            raise ModelError(
                f"adapter {asked.name!r} can't be loaded: its worker serves none; start workers of this "
                "model with --max-adapters"
            )
        adapter = Adapter(asked.name, asked.source, asked.fingerprint)
        self._load_adapter(adapter)
        return adapter

    def _follower(self, prepared: Prepared, replay: Replay) -> Follower | Guide | None:
        """What says which tokens may come next, told those of the log; None if any may."""
        known, grammar = replay.token_ids, prepared.grammar
        if prepared.guidance is None:
            return None if grammar is None else self._grammars.follow(grammar, known)
        guidance = Guidance.from_wire(prepared.guidance)
        whole = None if grammar is None else self._grammars.follow(grammar)
        call = None
        if guidance.opening is not None:
            with suppress(GrammarError):  # with this model's end tokens, say; its calls then go unguided
                call = self._grammars.follow(guidance.opening.grammar)
        guide = Guide(guidance, self._tokenizer.token_bytes, whole, call)
        guide.take(known)
        return guide


def _pooling(embed: Embed | None) -> Pooling | None:
    return None if embed is None else Pooling(embed.pooling, embed.normalize, embed.dimensions)
