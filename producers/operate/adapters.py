"""LoRA adapters, as operators load and drop them. How jobs find theirs is in `Operations.enqueue_named`."""

import os
from pathlib import Path

from ...schemas import keys
from ...schemas.adapters import MOST_ADAPTERS, ModelAdapter, folder_fingerprint, read_adapters
from ...schemas.errors import BadPolicy, UnknownModel
from ..operations import Operations
from ..steps import Compute, Read, Steps, Write
from .models import only_model, read_models
from .routes import route_marks


def list_adapters(operations: Operations) -> Steps[dict[str, ModelAdapter]]:
    """The adapters, by name."""
    name = keys.adapters(operations.settings.namespace)
    (records,) = yield from operations.send(Read((("HGETALL", name),)))
    return read_adapters(records)


def load_adapter(
    operations: Operations, name: str, source: str, base: str | None, fingerprint: str | None
) -> Steps[ModelAdapter]:
    """Let requests ask for an adapter, or for new content under the name of one.

    Raises:
        BadPolicy: a name, the source or the fingerprint is wrong, the name is a model's or an alias's, or
            there are too many.
        UnknownModel: no worker has ever served the base.
        InvalidJob: no base is named, and no model or more than one is served.
    """
    if base is None:
        base = only_model((yield from read_models(operations)))
    if fingerprint is None:
        folder = Path(source)
        # Not Path.is_dir, which raises for names that no file can have.
        if not folder.is_absolute() or not os.path.isdir(folder):  # noqa: PTH112
            raise BadPolicy(
                f"source = {source!r}: is no folder here (give its absolute path); for a Hub name, or a "
                "folder that only workers can read, give the fingerprint as well"
            )
        fingerprint = yield Compute(lambda: folder_fingerprint(folder))
    adapter = ModelAdapter.make(name, base, source, fingerprint)
    namespace = operations.settings.namespace
    models, route, known = yield from operations.send(
        Read(
            (
                ("HKEYS", keys.models(namespace)),
                ("HGET", keys.routes(namespace), name),
                ("HKEYS", keys.adapters(namespace)),
            )
        )
    )
    served = [model.decode() for model in models]
    if name in served:
        raise BadPolicy(f"name = {name!r}: is a model that is served here; give the adapter another")
    if route is not None:
        raise BadPolicy(f"name = {name!r}: is an alias; remove that first, or give the adapter another")
    if base not in served:
        raise UnknownModel(base, served)
    if name.encode() not in known and len(known) >= MOST_ADAPTERS:
        raise BadPolicy(f"there are {MOST_ADAPTERS} adapters already; drop one first")
    # As for an alias, the mark tells the script that accepts jobs that the name has to be looked up.
    marks = [("SET", mark, 1) for mark in route_marks(operations, name)]
    yield from operations.send(Write(marks))
    yield from operations.send(Write((("HSET", keys.adapters(namespace), name, adapter.to_wire()),)))
    return adapter


def drop_adapter(operations: Operations, name: str) -> Steps[ModelAdapter | None]:
    """Refuse requests for an adapter from now on; return what it was, if that can be read.

    Raises:
        BadPolicy: there is no such adapter.
    """
    key = keys.adapters(operations.settings.namespace)
    (record,) = yield from operations.send(Read((("HGET", key, name),)))
    if record is None:
        raise BadPolicy(f"no adapter {name!r}; see `headrace adapters list`")
    yield from operations.send(Write((("HDEL", key, name),)))
    yield from operations.send(Write([("DEL", mark) for mark in route_marks(operations, name)]))
    return ModelAdapter.read(record)
