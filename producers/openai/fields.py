"""What becomes of the fields of a request: each is honoured, is without effect, or is refused by name.

A field of the API that is in none of these lists is one that this version doesn't know, and is refused as any
unknown name is: what a client asks for is never silently left out of the answer.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ...schemas.errors import InvalidJob
from ...schemas.job import Job
from ...schemas.redaction import shown_name
from ...schemas.wording import did_you_mean
from .options import FIELDS as ANSWER_OPTIONS

WHO = {
    "user": "the job's metadata, as `user`",
    "safety_identifier": "the job's metadata, as `safety_identifier`",
}

TIER = {"service_tier": "the job's class: `flex` is `batch`, `priority` and `fast` are `interactive`"}

TIERS = {"flex": "batch", "priority": "interactive", "fast": "interactive"}
"""OpenAI's service tiers and the class of the jobs that serve them."""

USUAL_TIERS = ("auto", "default")
"""Tiers that leave the class of a job to the operator of the server."""

UNSET: Mapping[str, tuple[object, ...]] = {
    "chat_template_kwargs": ({},),
    "parallel_tool_calls": (True,),
    "stop": ([], ""),
    "tool_choice": ("auto",),
    "tools": ([],),
    "top_k": (-1,),
}
"""Values of fields that are honoured at any other, which clients send for null."""

HINTS = ("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention")
"""OpenAI's fields about its cache of prompts; here prefixes are cached without them."""


INSTEAD = {
    "embed": "; for embeddings there is /v1/embeddings",
    "continuation": "",
    "document": "; for documents there are /v1/score and /v1/rerank",
}
"""Arguments of a job that ask for something else than an answer, and what has a route of its own."""


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one endpoint.

    Attributes:
        passed: arguments of a job that have the same name and meaning.
        read: fields that become something else, such as an argument of another name, and what they become.
        neutral: fields that are accepted only at these values, where they have no effect.
        refused: fields that are never accepted, and what to do without them.
        hints: fields that help the API's owner to place a request, and change no answer.
    """

    passed: frozenset[str]
    read: Mapping[str, str]
    neutral: Mapping[str, tuple[object, ...]]
    refused: Mapping[str, str]
    hints: tuple[str, ...] = HINTS

    @property
    def known(self) -> frozenset[str]:
        """Every field that a request may name, and those that it is told not to."""
        return self.passed.union(self.read, self.neutral, self.refused, self.hints)

    def asked(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a body that ask for something. Arguments of a job are among them, unchecked.

        Raises:
            InvalidJob: naming a field that isn't supported, or is at this value.
        """
        fields = {}
        for name, value in body.items():
            without_effect = self.neutral.get(name, UNSET.get(name, ()))
            if value is None or name in self.hints or value in without_effect:
                continue
            if name in INSTEAD and name not in self.read:
                raise InvalidJob(name, f"is an argument of jobs (/v1/jobs){INSTEAD[name]}")
            if name in self.neutral:
                accepted = " or ".join(json.dumps(value) for value in self.neutral[name])
                raise InvalidJob(name, f"is supported only as {accepted}; leave it out")
            if name in self.refused:
                raise InvalidJob(name, f"is not supported; {self.refused[name]}")
            if name not in self.passed and name not in self.read and name not in Job.model_fields:
                raise InvalidJob(shown_name(name), f"is not known{did_you_mean(name, self.known)}")
            fields[name] = value
        return fields


def generation_fields(endpoint: Fields, body: Mapping[str, Any]) -> dict[str, Any]:
    """What the body of a chat or a completion asks for, with what both have in common already translated.

    Raises:
        InvalidJob: naming a field that isn't supported.
    """
    fields = endpoint.asked(body)
    drop(fields, ANSWER_OPTIONS)
    take_who_asks(fields)
    take_tier(fields)
    return fields


def take_who_asks(fields: dict[str, Any]) -> None:
    """Move `user` and `safety_identifier` into the job's metadata, whose own entries come first."""
    who = {}
    for name in WHO:
        if name in fields:
            value = fields.pop(name)
            if not isinstance(value, str | int):
                raise InvalidJob(name, "must be a string")
            who[name] = str(value)
    metadata = fields.get("metadata", {})
    if who and isinstance(metadata, Mapping):
        fields["metadata"] = who | dict(metadata)


def take_tier(fields: dict[str, Any]) -> None:
    """Replace `service_tier` by the class of the job, unless the class is given as well."""
    tier = fields.pop("service_tier", None)
    if tier is None or tier in USUAL_TIERS:
        return
    if not isinstance(tier, str) or tier not in TIERS:
        raise InvalidJob("service_tier", f"must be one of {', '.join((*USUAL_TIERS, *TIERS))}")
    fields.setdefault("job_class", TIERS[tier])


def drop(fields: dict[str, Any], names: Iterable[str]) -> None:
    """Remove fields that have been read elsewhere."""
    for name in names:
        fields.pop(name, None)
