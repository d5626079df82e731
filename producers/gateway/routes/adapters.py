"""`POST /v1/load_lora_adapter` and `/v1/unload_lora_adapter`, for operators, with vLLM's bodies."""

from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request

from ..auth import Operator
from ..console.asked import ConsoleRequest, Name, read
from ..console.same_origin import check_origin
from ..state import Gateway

router = APIRouter(prefix="/v1", tags=["models"])


class LoadAsked(ConsoleRequest):
    """An adapter to load.

    Attributes:
        lora_name: what requests will ask for.
        lora_path: its folder, which this gateway can read, or with `fingerprint`, which only workers can.
        base_model: the model that it changes; None if only one is served.
        fingerprint: of its content.
    """

    lora_name: Name
    lora_path: Annotated[str, Field(min_length=1, max_length=1024)]
    base_model: Name | None = None
    fingerprint: Name | None = None


class DropAsked(ConsoleRequest):
    """An adapter to drop."""

    lora_name: Name


@router.post("/load_lora_adapter", summary="Load an adapter (operators)")
async def load_adapter(request: Request, _: Operator) -> dict[str, Any]:
    """Let requests ask for an adapter, or replace the one of that name."""
    check_origin(request)
    asked = await read(request, LoadAsked)
    adapter = await Gateway.of(request).client.admin.load_adapter(
        asked.lora_name, asked.lora_path, model=asked.base_model, fingerprint=asked.fingerprint
    )
    return adapter.model_dump(mode="json")


@router.post("/unload_lora_adapter", summary="Drop an adapter (operators)")
async def drop_adapter(request: Request, _: Operator) -> dict[str, Any]:
    """Refuse requests for an adapter from now on."""
    check_origin(request)
    asked = await read(request, DropAsked)
    await Gateway.of(request).client.admin.drop_adapter(asked.lora_name)
    return {"name": asked.lora_name}
