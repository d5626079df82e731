"""The smallest engine there can be, without model or torch: each token is its predecessor's successor."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import isfinite

import numpy as np

from headrace.engine import (
    EngineConfig,
    EngineModelInfo,
    EngineStats,
    FinishReason,
    Progress,
    Request,
    RequestError,
)

VOCAB, CONTEXT_TOKENS, PAGES = 320, 128, 64


@dataclass
class CountingEngine:
    config: EngineConfig
    model_info: EngineModelInfo = field(
        default_factory=lambda: EngineModelInfo("counting", VOCAB, CONTEXT_TOKENS, (), 0, "none")
    )
    capacity_tokens: int = CONTEXT_TOKENS
    requests: dict[str, Request] = field(default_factory=dict)
    tokens: dict[str, list[int]] = field(default_factory=dict)

    @property
    def page_size(self) -> int:
        return self.config.page_size

    def submit(self, request: Request) -> None:
        if request.id in self.requests:
            raise RequestError("id", "it is here already")
        if not 0 < len(request.prompt_ids) < self.capacity_tokens:
            raise RequestError("prompt_ids", "it has no tokens, or too many")
        if max(request.prompt_ids) >= VOCAB:
            raise RequestError("prompt_ids", "a token is unknown")
        if not isfinite(request.params.temperature):
            raise RequestError("temperature", "must be a finite number")
        if request.pooling is not None:
            raise RequestError("pooling", "tokens that count have no hidden states")
        self.requests[request.id] = request
        self.tokens[request.id] = request.prompt_ids + request.output_ids

    def cancel(self, request_id: str) -> bool:
        self.tokens.pop(request_id, None)
        return self.requests.pop(request_id, None) is not None

    @property
    def has_work(self) -> bool:
        return bool(self.requests)

    def step(self) -> list[Progress]:
        progress = []
        for request in list(self.requests.values())[: self.config.max_batch_size]:
            known, new = self.tokens[request.id], []
            most = len(request.prompt_ids) + request.params.max_tokens
            if len(known) < most:
                new = [self.next_token(request, known)]
                known += new
            ends = not request.params.ignore_eos and new and new[0] in self.model_info.eos_token_ids
            reason = FinishReason.STOP if ends else FinishReason.LENGTH if len(known) >= most else None
            if reason is not None:
                self.cancel(request.id)
            progress.append(Progress(request.id, new, [], reason))
        return progress

    def next_token(self, request: Request, known: list[int]) -> int:
        if request.constraint is None:
            return (known[-1] + 1) % VOCAB
        mask = np.zeros(-(-VOCAB // 32), np.int32)
        request.constraint.take(known[len(request.prompt_ids) + request.constraint.taken :])
        if not request.constraint.fill(mask):
            return (known[-1] + 1) % VOCAB
        return int(np.unpackbits(mask.view(np.uint8), bitorder="little").argmax())

    def end_also_at(self, token_ids: Iterable[int]) -> None:
        ends = {*self.model_info.eos_token_ids, *token_ids}
        self.model_info = replace(self.model_info, eos_token_ids=tuple(sorted(ends)))

    @property
    def free_slots(self) -> int:
        return max(0, self.config.max_batch_size - len(self.requests))

    @property
    def free_tokens(self) -> int:
        return max(0, PAGES * self.page_size - sum(map(self.held_tokens, self.requests)))

    def held_tokens(self, request_id: str) -> int:
        return -(-len(self.tokens.get(request_id, ())) // self.page_size) * self.page_size

    def stats(self) -> EngineStats:
        numbers = dict.fromkeys(EngineStats.__dataclass_fields__, 0)
        return EngineStats(**numbers | {"running": len(self.requests), "pages_total": PAGES})

    def check(self) -> None:
        assert self.tokens.keys() == self.requests.keys()
