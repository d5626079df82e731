"""Model aliases: a name that requests ask for, and the models among which they are shared out."""

import hashlib
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import BadPolicy
from .keys import is_model_name
from .wording import in_words

MOST_ALIASES = 256
MOST_TARGETS = 16
MOST_WEIGHT = 1_000_000

_Weight = Annotated[int, Field(ge=1, le=MOST_WEIGHT, strict=True)]


class ModelRoute(BaseModel):
    """An alias of models.

    Attributes:
        alias: the name that requests ask for; it hides a model of the same name.
        targets: the models that answer them, with their weights.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    alias: str
    targets: Annotated[dict[str, _Weight], Field(min_length=1, max_length=MOST_TARGETS)]

    @classmethod
    def make(cls, alias: str, targets: Mapping[str, int]) -> Self:
        """Make a validated route.

        Raises:
            BadPolicy: naming what is wrong.
        """
        check_alias(alias)
        for model in targets:
            if not is_model_name(model):
                raise BadPolicy(f"targets: {model!r} is not a model's name")
        try:
            return cls(alias=alias, targets=dict(targets))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise BadPolicy(f"{place} = {first['input']!r}: {in_words(first)}") from None

    @classmethod
    def read(cls, record: bytes | str | None) -> Self | None:
        """The route in Redis, if there is one and it can be read."""
        try:
            return None if record is None else cls.model_validate_json(record)
        except ValidationError:
            return None

    def to_wire(self) -> str:
        """The route as JSON."""
        return self.model_dump_json()

    def choose(self, who: str | None) -> str:
        """The model that answers a request: always the same one for the same `who`, by chance for None.

        If weights rise, only as many move as the new shares ask for, and only to models whose weights rose
        (weighted rendezvous hashing).
        """
        if who is None:
            (drawn,) = random.choices(list(self.targets), list(self.targets.values()))
            return drawn
        return max(self.targets, key=lambda model: self._score(model, who))

    def _score(self, model: str, who: str) -> float:
        # Of exponential variables, the one with rate w is the smallest with probability w / sum of rates.
        hashed = hashlib.blake2b(f"{self.alias}\n{model}\n{who}".encode(errors="replace"), digest_size=6)
        chance = (int.from_bytes(hashed.digest()) + 0.5) / 2**48
        return self.targets[model] / -math.log(chance)


@dataclass(frozen=True, slots=True)
class Routed:
    """The model that answers a request.

    Attributes:
        model: its name.
        kept: the key under which the choice is kept for when the request is sent again; None if it isn't.
    """

    model: str
    kept: str | None = None


def check_alias(alias: object) -> None:
    """Refuse what can't be an alias.

    Raises:
        BadPolicy: it doesn't have the form of a model's name.
    """
    if not isinstance(alias, str) or not is_model_name(alias):
        raise BadPolicy(
            f"alias = {alias!r}: must be like a model's name: letters, digits and _ . / -, at most 128"
        )


def read_routes(records: Mapping[Any, Any]) -> dict[str, ModelRoute]:
    """The routes in Redis by alias; unreadable ones are left out."""
    found = [ModelRoute.read(record) for record in records.values()]
    readable = [route for route in found if route is not None]
    return {route.alias: route for route in sorted(readable, key=lambda route: route.alias)}
