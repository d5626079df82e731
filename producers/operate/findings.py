"""What the doctor found."""

from enum import StrEnum

from pydantic import BaseModel, ConfigDict


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Finding(BaseModel):
    """One thing that was looked at.

    Attributes:
        check: what.
        found: how it is.
        advice: what to change; empty when nothing is to be.
    """

    model_config = ConfigDict(frozen=True)

    check: str
    verdict: Verdict
    found: str
    advice: str = ""


def fine(check: str, found: str) -> Finding:
    """Nothing is to be changed."""
    return Finding(check=check, verdict=Verdict.OK, found=found)


def judge(check: str, found: str, well: object, otherwise: Verdict, advice: str) -> Finding:
    """All is well, or there is something to change."""
    if well:
        return fine(check, found)
    return Finding(check=check, verdict=otherwise, found=found, advice=advice)
