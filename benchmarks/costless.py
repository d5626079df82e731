"""`headrace worker` with an engine that costs nothing: every step, each request gets the next of its tokens.

    python -m benchmarks.costless worker SETTINGS

Everything else in the engine process is the real one: link, flushes, text, metrics. It imports no other
benchmark, so that it runs with any checkout of headrace that PYTHONPATH names.

If COSTLESS_PACE names a file, that says how many requests get their next token in one step, and how many
seconds a step takes: "250 0.125" is what eight workers of 250 do who take turns, "0 0.02" a pause.
"""

import os
import sys
import time
from collections.abc import Iterable
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from headrace import engine
from headrace.engine import EngineConfig, EngineModelInfo, EngineStats, FinishReason, Progress, Request
from headrace.workers.engine_process import main as engine_process
from headrace.workers.host.run import run
from headrace.workers.settings import WorkerSettings

CONTEXT_TOKENS, VOCAB = 1_000_000, 512
TEXT = tuple(range(300, 400))
"""What is written, again and again: tokens of whole words."""


class CostlessEngine:
    """Stands in for `Engine` where the engine process has one."""

    page_size = 16
    capacity_tokens = CONTEXT_TOKENS
    free_tokens = 10**9
    model_info = EngineModelInfo("costless", VOCAB, CONTEXT_TOKENS, (), 0, "none")

    def __init__(self, config: EngineConfig) -> None:
        self._slots = config.max_batch_size
        self._left: dict[str, int] = {}
        self._pace = Path(os.environ["COSTLESS_PACE"]) if "COSTLESS_PACE" in os.environ else None
        self._stepped_at = 0.0
        self._text = cycle([token_id] for token_id in TEXT)

    def submit(self, request: Request) -> None:
        self._left[request.id] = request.params.max_tokens - len(request.output_ids)

    def cancel(self, request_id: str) -> bool:
        return self._left.pop(request_id, None) is not None

    @property
    def has_work(self) -> bool:
        return bool(self._left)

    def step(self) -> list[Progress]:
        if self._pace is not None:
            return self._paced(self._pace)
        token_ids = next(self._text)
        progress = [Progress(request_id, token_ids, []) for request_id in self._left]
        for item in progress:
            self._left[item.id] -= 1
            if not self._left[item.id]:
                item.finish_reason = FinishReason.LENGTH
                del self._left[item.id]
        return progress

    def _paced(self, pace: Path) -> list[Progress]:
        """The next token of the next requests in turn; each has TEXT from its beginning."""
        many, seconds = pace.read_text().split()
        time.sleep(max(0.0, self._stepped_at + float(seconds) - time.monotonic()))
        self._stepped_at = time.monotonic()
        progress = []
        for request_id in list(islice(self._left, int(many))):
            left = self._left.pop(request_id) - 1
            progress.append(Progress(request_id, [TEXT[left % len(TEXT)]], []))
            if left:
                self._left[request_id] = left  # now it is the last in turn
            else:
                progress[-1].finish_reason = FinishReason.LENGTH
        return progress

    def end_also_at(self, token_ids: Iterable[int]) -> None:
        """Its texts end where they are to."""

    @property
    def free_slots(self) -> int:
        return self._slots - len(self._left)

    def held_tokens(self, request_id: str) -> int:
        return self.page_size if request_id in self._left else 0

    def stats(self) -> EngineStats:
        numbers: dict[str, Any] = dict.fromkeys(EngineStats.__dataclass_fields__, 0)
        return EngineStats(**numbers | {"running": len(self._left), "pages_total": CONTEXT_TOKENS})

    def check(self) -> None:
        """It has no pages that could be lost."""


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        settings = WorkerSettings.model_validate_json(sys.argv[2])
        sys.exit(run(settings, [sys.executable, "-m", "benchmarks.costless"]))
    if hasattr(engine, "register"):
        engine.register("headrace", CostlessEngine)
    else:  # a checkout that knows one engine
        engine_process.Engine = CostlessEngine
    sys.exit(engine_process.main(int(sys.argv[1])))
