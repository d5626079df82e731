"""Model aliases, as producers follow them: a job asks for a name, and one of the alias's models runs it.

Most jobs ask for a model, and pay no round trip to learn that it is no alias: the script that accepts jobs
refuses one whose name is an alias, without telling which models that stands for. Only then, or for a name
that isn't known as a model, is the alias read.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..schemas import keys
from ..schemas.job import Job
from ..schemas.routes import ModelRoute, Routed
from .steps import Read, Steps, Write

if TYPE_CHECKING:
    from .operations import Operations

CHOICE_S = 60.0
"""How long a choice is kept for a job that hasn't been accepted yet."""

WHO = ("user", "safety_identifier")
"""Entries of a job's metadata that say whom it is for."""


class AliasFound(Exception):
    """A job wasn't accepted, because it asks for an alias, for which a model must be chosen first."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """What a request asks for.

    Attributes:
        model: the name of a model, or of an alias.
        who: whom it is for; the same gets the same model while the weights stay. None: by chance.
        tenant: whose request it is.
        idempotency_key: that of a request that may be sent again.
    """

    model: str
    who: str | None = None
    tenant: str = "default"
    idempotency_key: str | None = None

    @classmethod
    def by(cls, job: Job) -> "ModelRequest":
        """What a job asks for."""
        return cls(job.model, whom(job.tenant, job.metadata), job.tenant, job.idempotency_key)


def whom(tenant: str, metadata: Mapping[str, object]) -> str | None:
    """Whom a job is for, by its metadata."""
    given = (metadata.get(name) for name in WHO)
    return next((f"{tenant}\n{each}" for each in given if isinstance(each, str) and each), None)


def routed_models(operations: "Operations", asked: Sequence[ModelRequest]) -> Steps[list[Routed]]:
    """The model that answers each request: the one that it asks for, if that is no alias.

    A request with an idempotency key gets the model that has its job, if there is one. Otherwise the choice
    is kept, so that the same request, sent again, finds that job and not another model.
    """
    names = list(dict.fromkeys(each.model for each in asked))
    namespace = operations.settings.namespace
    kept = [_kept(each, namespace) for each in asked]
    commands: list[tuple[str | int, ...]] = [("HGET", keys.routes(namespace), name) for name in names]
    found = yield from operations.send(Read([*commands, *(("GET", name) for name in kept if name)]))
    routes = dict(zip(names, map(ModelRoute.read, found), strict=False))
    earlier = iter(found[len(names) :])
    routed: list[Routed | None] = []
    for each, name in zip(asked, kept, strict=True):
        before, route = next(earlier) if name else None, routes[each.model]
        if before is not None:
            routed.append(Routed(before.decode(), name))
        elif route is None:
            routed.append(Routed(each.model))
        else:
            routed.append(None if name else Routed(route.choose(each.who)))
    undecided = [place for place, known in enumerate(routed) if known is None]
    if undecided:
        wanted = {place: (asked[place], routes[asked[place].model], kept[place]) for place in undecided}
        chosen = yield from _chosen(operations, list(wanted.values()))  # type: ignore[arg-type]
        for place, model in zip(wanted, chosen, strict=True):
            routed[place] = Routed(model, kept[place])
    return [each for each in routed if each is not None]


def keep_routed(operations: "Operations", routed: Sequence[Routed]) -> Steps[None]:
    """Keep choices as long as the keys of the jobs that were just accepted; see `Admin.keep_routed`."""
    ttl_ms = round(1000 * operations.settings.idempotency_s)
    kept = [("SET", each.kept, each.model, "PX", ttl_ms) for each in routed if each.kept is not None]
    if kept:
        yield from operations.send(Write(kept))


def _chosen(
    operations: "Operations", wanted: Sequence[tuple[ModelRequest, ModelRoute, str]]
) -> Steps[list[str]]:
    """A model for each request with a key, and for whoever sends it again."""
    before = yield from _enqueued_before(operations, [(each, route) for each, route, _ in wanted])
    # Kept before the job is made: the same request, sent again, must find that job and not another model. For
    # no longer than making it may take, as it may be refused; `keep_routed` follows if it isn't.
    ttl_ms = round(1000 * min(CHOICE_S, operations.settings.idempotency_s))
    commands: list[tuple[str | int, ...]] = []
    for (each, route, kept), model in zip(wanted, before, strict=True):
        commands += [("SET", kept, model or route.choose(each.who), "NX", "PX", ttl_ms), ("GET", kept)]
    replies = yield from operations.send(Write(commands))
    # Without the TTL's end in between, there is a reply.
    return [
        str(command[2]) if first is None else first.decode()
        for command, first in zip(commands[::2], replies[1::2], strict=True)
    ]


def _enqueued_before(
    operations: "Operations", wanted: Sequence[tuple[ModelRequest, ModelRoute]]
) -> Steps[list[str | None]]:
    """Each request's model that has a job of its key: of before the alias, or of another name."""
    places, commands = list[tuple[int, str]](), list[tuple[str | int, ...]]()
    for place, (each, route) in enumerate(wanted):
        for model in dict.fromkeys((each.model, *route.targets)):
            # A request with several prompts has numbered keys.
            for key in (each.idempotency_key, f"{each.idempotency_key}#0"):
                places.append((place, model))
                commands.append(("GET", operations.idem(model, each.tenant, str(key))))
    found = yield from operations.send(Read(commands))
    models: dict[int, str] = {}
    for (place, model), job in zip(places, found, strict=True):
        if job is not None:
            models.setdefault(place, model)
    return [models.get(place) for place in range(len(wanted))]


def _kept(asked: ModelRequest, namespace: str) -> str | None:
    """The name under which the choice for a request with a key is kept."""
    if asked.idempotency_key is None:
        return None
    request = f"{asked.model}\n{asked.tenant}\n{asked.idempotency_key}".encode(errors="replace")
    return keys.routed(hashlib.blake2b(request, digest_size=16).hexdigest(), namespace)
