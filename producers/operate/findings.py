"""What the doctor found."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Verdict(StrEnum):
    """How serious a finding is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(BaseModel):
    """One thing that the doctor checked.

    Attributes:
        check: what was checked, for example `eviction`, or `demo: outbox` of one model.
        verdict: whether something should change (`warn`) or must (`fail`).
        found: what was found.
        advice: what to change; empty if nothing needs to.
    """

    model_config = ConfigDict(frozen=True)

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


def fine(check: str, found: str) -> Finding:
    """Nothing needs to change."""
    return Finding(check=check, verdict=Verdict.OK, found=found)


def judge(check: str, found: str, well: object, otherwise: Verdict, advice: str) -> Finding:
    """All is well, or there is something to change."""
    if well:
        return fine(check, found)
    return Finding(check=check, verdict=otherwise, found=found, advice=advice)
