"""`POST /tokenize` and `POST /detokenize`, vLLM's routes, answered by a worker that has the tokenizer."""

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from ...openai.tokens import detokenize_body, detokenize_fields, tokenize_body, tokenize_fields
from ..auth import Caller
from ..bodies import body_of, read_json
from ..tokenizer_jobs import ask_tokenizer

router = APIRouter(tags=["tokens"])


@router.post("/tokenize", summary="The token ids of a prompt or messages", openapi_extra=body_of("model"))
async def tokenize(request: Request, caller: Caller) -> Response:
    """Token ids, as the model's own worker counts them. Nothing is generated."""
    asked = await ask_tokenizer(request, caller, *tokenize_fields(await read_json(request)))
    context_tokens = await asked.gateway.context_tokens(asked.model)
    return await asked.answer(request, lambda results: tokenize_body(results[0], context_tokens))


@router.post("/detokenize", summary="The text of token ids", openapi_extra=body_of("model", "tokens"))
async def detokenize(request: Request, caller: Caller) -> Response:
    """Text, special tokens included."""
    asked = await ask_tokenizer(request, caller, *detokenize_fields(await read_json(request)))
    return await asked.answer(request, lambda results: detokenize_body(results[0]))
