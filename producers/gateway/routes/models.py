"""`GET /v1/models` and `/v1/models/{model}`."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from ....schemas.routes import ModelRoute
from ...operate.models import ModelInfo
from ..auth import Access, Caller
from ..errors import unknown_model
from ..state import Gateway

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", summary="List the models and aliases that the key may use")
async def list_models(request: Request, caller: Caller) -> dict[str, Any]:
    """OpenAI's list of models."""
    found = await _models(Gateway.of(request), caller)
    return {"object": "list", "data": [body for _, body in sorted(found.items())]}


@router.get("/{model:path}", summary="Describe one model")
async def get_model(model: str, request: Request, caller: Caller) -> dict[str, Any]:
    """OpenAI's model object."""
    found = await _models(Gateway.of(request), caller)
    if model not in found:
        raise unknown_model(model)
    return found[model]


async def _models(gateway: Gateway, caller: Access) -> dict[str, dict[str, Any]]:
    """What a caller may ask for, by name."""
    served = {model.id: model for model in await gateway.client.models()}
    aliases = await gateway.client.admin.routes()
    named = served | {name: _of_alias(alias, served) for name, alias in aliases.items()}
    bodies = {name: _body(model) for name, model in named.items()}
    for name, adapter in (await gateway.client.admin.adapters()).items():
        if name in served:
            continue  # it goes first
        base = served.get(adapter.base) or ModelInfo(id=adapter.base)
        # vLLM's names for where an adapter is from and what it changes.
        bodies[name] = _body(base) | {"id": name, "root": adapter.source, "parent": adapter.base}
    return {name: body for name, body in bodies.items() if caller.sees_model(name)}


def _of_alias(alias: ModelRoute, served: dict[str, ModelInfo]) -> ModelInfo:
    """An alias as a model, with the context that each of its models has."""
    contexts = [served[model].context_tokens for model in alias.targets if model in served]
    return ModelInfo(id=alias.alias, context_tokens=min(filter(None, contexts), default=None))


def _body(model: ModelInfo) -> dict[str, Any]:
    """OpenAI's four fields, and vLLM's `max_model_len`. It isn't known when a model was made."""
    return {
        "id": model.id,
        "object": "model",
        "created": 0,
        "owned_by": "headrace",
        "max_model_len": model.context_tokens,
    }
