"""Which models are served (`client.models()`), and the model of a job that names none."""

import json
from collections.abc import Sequence

from ...schemas import keys
from ...schemas.errors import InvalidJob, ModelInUse, UnknownModel
from ...schemas.keys import Tag
from ..operations import Operations
from ..steps import Read, ServerInfo, Steps, Write, check_name
from ..waiting import SILENT_S
from .overview import Facts, read_queues

GONE_S = 60.0
"""A worker that has not been heard from for this long has ended without saying so."""


class ModelInfo(Facts):
    """A model that has been served here.

    Attributes:
        id: the name to enqueue to.
        context_tokens: maximum length of prompt and output together.
        parameters: number of weights.
        dtype: type of the weights.
        task: what it is made for: `generate`, `embed` or `score`; None from an older worker.
        workers: number of engine processes that serve it and were heard from within the last minute.
        ready: how many of them take jobs; the others are silent or being drained.
    """

    id: str
    context_tokens: int | None = None
    parameters: int | None = None
    dtype: str | None = None
    task: str | None = None
    workers: int = 0
    ready: int = 0


def read_models(operations: Operations) -> Steps[list[ModelInfo]]:
    """Every model ever served here, by name, with how many workers serve it now."""
    namespace = operations.settings.namespace
    (known,) = yield from operations.send(Read((("HGETALL", keys.models(namespace)),)))
    if not known:
        return []
    tags = [
        Tag(name.decode(), 0, namespace) for name in sorted(known)
    ]  # a worker is listed in each partition
    info = yield from operations.send(ServerInfo())
    listed = yield from operations.send(Read([("ZRANGE", tag.workers, 0, -1, "WITHSCORES") for tag in tags]))
    workers = [
        (tag, name.decode(), int(info["server_time_usec"]) / 1e6 - int(heard_ms) / 1000)
        for tag, members in zip(tags, listed, strict=True)
        for name, heard_ms in zip(members[::2], members[1::2], strict=True)
    ]
    drained = yield from operations.send(
        Read([("HGET", tag.worker(name), "drain") for tag, name, _ in workers])
    )
    found = list(zip(workers, drained, strict=True))
    return [
        _model(
            {"id": tag.model, **json.loads(known[tag.model.encode()])},
            [(silent_s, drain is not None) for (of, _, silent_s), drain in found if of == tag],
        )
        for tag in tags
    ]


def _model(facts: dict[str, object], workers: Sequence[tuple[float, bool]]) -> ModelInfo:
    """A model with its workers, given by how long each has been silent and whether it is being drained."""
    living = sum(silent_s < GONE_S for silent_s, _ in workers)
    ready = sum(silent_s < SILENT_S and not drained for silent_s, drained in workers)
    return ModelInfo.model_validate(facts | {"workers": living, "ready": ready})


def only_model(served: Sequence[ModelInfo]) -> str:
    """The model of a job that names none if the operator has chosen none either: the only one served.

    Raises:
        InvalidJob: none or more than one is served.
    """
    if len(served) == 1:
        return served[0].id
    known = ", ".join(model.id for model in served) or "no models yet"
    raise InvalidJob("model", f"name one (served here: {known}), or set HEADRACE_DEFAULT_MODEL")


def forget_model(operations: Operations, model: str) -> Steps[None]:
    """Remove a model that nobody serves any more from the list, so that jobs for it are refused.

    Raises:
        BadSetting: the name is empty.
        UnknownModel: no worker has ever served it here.
        ModelInUse: workers serve it, or its jobs or their callbacks are unfinished.
    """
    check_name("model", model)
    known = {info.id: info for info in (yield from read_models(operations))}
    if model not in known:
        raise UnknownModel(model, list(known))
    if workers := known[model].workers:
        raise ModelInUse(model, f"{workers} of its workers live; end them first (headrace workers drain)")
    settings = operations.settings
    tags = [Tag(model, partition, settings.namespace) for partition in range(settings.partitions)]
    counts = [(name, key) for tag in tags for name, key in (("ZCARD", tag.delayed), ("XLEN", tag.outbox))]
    waiting = sum((yield from operations.send(Read(counts))))
    for queue in (yield from read_queues(operations)):
        waiting += queue.depth + queue.running if queue.model == model else 0
    if waiting:
        raise ModelInUse(
            model, f"{waiting} of its jobs or their callbacks wait; let them end, or cancel them"
        )
    # If a worker starts between two tries, it lists its model again within five seconds.
    forgotten = [("HDEL", keys.models(settings.namespace), model), *(("DEL", tag.paused) for tag in tags)]
    yield from operations.send(Write(forgotten))
