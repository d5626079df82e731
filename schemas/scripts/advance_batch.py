"""Record how far a batch is."""

from dataclasses import dataclass
from typing import Any

from ..keys import BatchKeys
from ..redis.call import Call, script, text


@dataclass(frozen=True, slots=True)
class BatchPart:
    """Answers that have been written to the file store.

    Attributes:
        name: the part's name; the same name is counted once.
        lines: which lines it answers, and the sizes of its objects, as JSON.
    """

    name: str = ""
    lines: str = ""
    completed: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


def advance_batch(
    keys: BatchKeys,
    tenant: str,
    batch_id: str,
    holder: str,
    lease_s: float,
    retention_s: float,
    *,
    part: BatchPart | None = None,
    fields: dict[str, str | int] | None = None,
    leaves: bool = False,
) -> Call[bool | None]:
    """Renew the lease and, in the same step, record a part and set fields of the batch.

    The result is None if the lease belongs to another runner, so that nothing was recorded, and otherwise
    whether the batch is to be cancelled. With a lease of 0 s the next runner can take the batch at once; with
    `leaves`, none can.
    """

    def parse(reply: list[Any]) -> bool | None:
        # "lost" comes before anything is written, so the caller may forget what it wanted to record.
        return None if text(reply[0]) == "lost" else bool(reply[1])

    part = part or BatchPart()
    flat = [item for pair in (fields or {}).items() for item in pair]
    return script("advance_batch").call(
        keys.base,
        parse,
        *flat,
        name=f"{tenant}:{batch_id}",
        holder=holder,
        lease_ms=round(1000 * lease_s),
        part=part.name,
        lines=part.lines,
        completed=part.completed,
        failed=part.failed,
        input_tokens=part.input_tokens,
        output_tokens=part.output_tokens,
        retention_ms=round(1000 * retention_s),
        leaves=int(leaves),
    )
