"""One request's answer: asked for, read token by token, and asked for again where it broke off."""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from ..parameters import SamplingParams
from ..request import LEAST_LOGPROB, FinishReason, Progress, Request, TokenLogprobs
from .asking import asked, counts_anew
from .errors import Interrupted, ServerRefused
from .facts import ABORT, GENERATE, ServerFacts
from .forbidding import Forbidden
from .http import ServerRoutes

TRIES = 5
"""How often in a row an answer may break off, or not begin, on a server that is well."""

PAUSE_S = 0.2
"""The pause before the second try; each further one is twice as long."""


@dataclass(slots=True)
class RunningAnswer:
    """A request that runs on the server.

    Attributes:
        request: what was submitted.
        params: how to sample, in numbers that can be computed with.
        ends: the tokens that end the answer.
        most_tokens: the maximum length of the answer.
        noise_by_position: as in `asking.asked`.
        output_ids: the answer's tokens, those of earlier engines first.
        task: reads it.
    """

    request: Request
    params: SamplingParams
    ends: frozenset[int]
    most_tokens: int
    noise_by_position: bool
    output_ids: list[int] = field(default_factory=list)
    task: "asyncio.Task[None] | None" = None
    _asked: int = 0
    _vocab: int = 0

    async def run(
        self, http: ServerRoutes, facts: ServerFacts, vocab: int, tell: Callable[[Progress], None], name: str
    ) -> None:
        """Generate, and tell each token and the end.

        Raises:
            Interrupted: it broke off too often.
        """
        forbidden = Forbidden(self.params, self.request.constraint, vocab, self.ends)
        self._vocab = vocab
        failures = 0
        while self._end() is None:
            before = len(self.output_ids)
            self._asked += 1
            try:
                await self._ask(http, facts, forbidden, tell, f"{name}-{self._asked}")
            except Interrupted:
                failures = 1 if len(self.output_ids) > before else failures + 1
                if failures >= TRIES:
                    raise
                await asyncio.sleep(PAUSE_S * 2 ** (failures - 1))
            except ServerRefused as error:
                if error.status == 404:  # it doesn't know the model any more
                    raise Interrupted(str(error)) from error
                tell(self._failed(f"vLLM refuses the request: {error}"))
                return

    async def _ask(
        self,
        http: ServerRoutes,
        facts: ServerFacts,
        forbidden: Forbidden,
        tell: Callable[[Progress], None],
        name: str,
    ) -> None:
        """Ask once for what follows; return when it has ended or has to be asked for otherwise."""
        ask = asked(
            self.params,
            self.output_ids,
            self.ends,
            self.most_tokens,
            noise_by_position=self.noise_by_position,
        )
        if forbidden.always_masked:
            may = forbidden.allowed(self.output_ids)
            ask = forbidden.masked(ask, may)
        handed_over = frozenset(self.output_ids)
        async with aclosing(self._read(http, facts, ask, name)) as found:
            async for token_id, logprobs in found:
                if forbidden.always_masked:
                    self._check_mask(may[token_id], token_id)
                elif forbidden.any:
                    may = forbidden.allowed(self.output_ids)
                    if not may[token_id]:
                        break
                self._take(token_id, logprobs, tell)
                if self._end() is not None or counts_anew(self.params, handed_over, token_id):
                    return
            else:
                return
        ask = forbidden.masked(ask, may)
        async with aclosing(self._read(http, facts, ask, f"{name}-masked")) as found:
            async for token_id, logprobs in found:
                self._check_mask(may[token_id], token_id)
                self._take(token_id, logprobs, tell)
                return

    @staticmethod
    def _check_mask(may_come: bool, token_id: int) -> None:
        if not may_come:
            raise Interrupted(f"vLLM chose token {token_id}, which it was told not to")

    def _take(self, token_id: int, logprobs: list[TokenLogprobs], tell: Callable[[Progress], None]) -> None:
        self.output_ids.append(token_id)
        tell(Progress(self.request.id, [token_id], logprobs, self._end()))

    def _end(self) -> FinishReason | None:
        if self.output_ids and self.output_ids[-1] in self.ends:
            return FinishReason.STOP
        return FinishReason.LENGTH if len(self.output_ids) >= self.most_tokens else None

    def _failed(self, why: str) -> Progress:
        return Progress(self.request.id, [], [], FinishReason.ERROR, error=why)

    async def _read(
        self, http: ServerRoutes, facts: ServerFacts, ask: dict[str, Any], name: str
    ) -> AsyncGenerator[tuple[int, list[TokenLogprobs]]]:
        """The tokens that follow, with their log-probabilities if they were asked for."""
        body: dict[str, Any] = {
            "model": facts.model,
            "token_ids": [*self.request.prompt_ids, *self.output_ids],
            "sampling_params": ask,
            "stream": True,
        }
        if self.request.cache_salt:
            body["cache_salt"] = self.request.cache_salt
        left = ask["max_tokens"]
        done = False
        try:
            async with http.events(GENERATE, body, name) as events:
                async for event in events:
                    for token_id, logprobs in _tokens(event, self.params.logprobs, self._vocab):
                        left -= 1
                        done = left == 0 or token_id in self.ends
                        yield token_id, logprobs
                if not done:
                    raise Interrupted("the answer ended early")
        finally:
            if not done:
                # Closing the connection aborts it too, but not through every proxy.
                await asyncio.shield(_abort(http, name))


async def _abort(http: ServerRoutes, name: str) -> None:
    try:
        await http.call(ABORT, {"request_ids": [f"generate-tokens-{name}"]})
    except (Interrupted, ServerRefused):  # then it is gone, or ends with its connection
        return


def _tokens(event: dict[str, Any], most: int | None, vocab: int) -> list[tuple[int, list[TokenLogprobs]]]:
    """The tokens of one event, checked: they come from another process, perhaps on another machine."""
    try:
        found: list[tuple[int, list[TokenLogprobs]]] = []
        for choice in event["choices"]:
            if choice["finish_reason"] in {"abort", "error"}:
                raise Interrupted(f"vLLM ended it: {choice['finish_reason']}")
            token_ids = [_token(each, vocab) for each in choice["token_ids"] or ()]
            entries = choice["logprobs"]["content"] if most is not None and token_ids else ()
            for place, token_id in enumerate(token_ids):
                of = [_logprobs(entries[place], token_id, most, vocab)] if most is not None else []
                found.append((token_id, of))
        return found
    except (KeyError, TypeError, IndexError, ValueError, OverflowError) as error:
        raise Interrupted(f"an event isn't as expected: {type(error).__name__}: {error}") from error


def _logprobs(entry: dict[str, Any], token_id: int, most: int, vocab: int) -> TokenLogprobs:
    # Its own list begins with the token itself, whatever its rank.
    ranked = {each["rank"]: each for each in entry["top_logprobs"] if each["rank"] is not None}
    top = [
        (_token(ranked[rank]["token_id"], vocab), _logprob(ranked[rank]["logprob"]))
        for rank in sorted(ranked)
        if 1 <= rank <= most
    ]
    return TokenLogprobs(token_id, _logprob(entry["logprob"]), top)


def _token(value: object, vocab: int) -> int:
    if type(value) is not int or not 0 <= value < vocab:
        raise ValueError(f"{value!r:.50} is no token of a vocabulary of {vocab}")
    return value


def _logprob(value: float) -> float:
    if math.isnan(value) or value == math.inf:
        raise ValueError(f"{value!r:.50} is no log-probability")
    return max(LEAST_LOGPROB, float(value))
