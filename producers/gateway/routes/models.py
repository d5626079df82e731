"""`GET /v1/models` and `/v1/models/{model}`."""

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request

from ...operate.models import ModelInfo
from ..auth import Caller
from ..errors import unknown_model
from ..state import Gateway

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.get("", summary="List the models that are served and that the key may use")
async def list_models(request: Request, caller: Caller) -> dict[str, Any]:
    """OpenAI's list of models."""
    found = await Gateway.of(request).client.models()
    return {"object": "list", "data": [_body(model) for model in found if caller.sees_model(model.id)]}


@router.get("/{model:path}", summary="Describe one model")
async def get_model(model: str, request: Request, caller: Caller) -> dict[str, Any]:
    """OpenAI's model object."""
    for found in await Gateway.of(request).client.models():
        if found.id == model and caller.sees_model(model):
            return _body(found)
    raise unknown_model(model)


def _body(model: ModelInfo) -> dict[str, Any]:
    """OpenAI's four fields, and vLLM's `max_model_len`. It isn't known when a model was made."""
    return {
        "id": model.id,
        "object": "model",
        "created": 0,
        "owned_by": "headrace",
        "max_model_len": model.context_tokens,
    }
