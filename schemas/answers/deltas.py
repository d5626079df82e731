"""The pieces that an answer is made of, in the order in which a model writes them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Content:
    """More of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of the reasoning that precedes the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class CallBegin:
    """A call of a tool begins."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class Arguments:
    """More of the arguments of a call, which are an object in JSON."""

    index: int
    text: str


Delta = Content | Reasoning | CallBegin | Arguments
