"""An imitation of a vLLM server: the routes of vLLM 0.32 that headrace uses, over a model of hashes.

It samples as vLLM does, over its own request's output only, and can be made to fail as a real server can't be
told to. What it answers was read from vLLM's source and from a real server's answers.
"""

import asyncio
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Self

import numpy as np
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

VOCAB, CONTEXT, BLOCK, BLOCKS = 64, 256, 16, 65


@dataclass
class Imitation:
    """Its state, and the faults that it shows.

    Attributes:
        noise: `position` keys noise as vLLM's newer runner does, `generator` as its older one.
        started: what it says of its process's start.
        refusals: statuses of the next answers that should be generated.
        breaks_after: how many tokens the next answers have before their connections break.
        hangs: whether no token comes any more.
        key: the API key that it wants.
        more_metrics: what its metrics say besides.
        events: what its next answers stream instead, each made from the event that would have been.
        bodies: the requests that were made.
        running: the ids of requests that run.
        aborted: the ids that were to be aborted.
    """

    noise: str = "position"
    model: str = "imitated"
    version: str = "0.32.0"
    started: float = 1.0
    refusals: list[int] = field(default_factory=list)
    breaks_after: list[int] = field(default_factory=list)
    hangs: bool = False
    key: str | None = None
    more_metrics: str = ""
    events: list[Callable[[dict[str, Any]], str]] = field(default_factory=list)
    waiting: int = 0
    bodies: list[dict[str, Any]] = field(default_factory=list)
    running: set[str] = field(default_factory=set)
    aborted: list[str] = field(default_factory=list)
    port: int = 0

    def __enter__(self) -> Self:
        config = uvicorn.Config(_app(self), host="127.0.0.1", port=0, log_level="critical", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        give_up_at = time.monotonic() + 60
        while not self._server.started:
            assert time.monotonic() < give_up_at
            time.sleep(0.01)
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._server.force_exit = self._server.should_exit = True
        self._thread.join(timeout=60)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def metrics(self) -> str:
        return "\n".join(
            [
                f"process_start_time_seconds {self.started}",
                f'vllm:num_requests_running{{engine="0"}} {len(self.running)}',
                f'vllm:num_requests_waiting{{engine="0"}} {self.waiting}',
                'vllm:kv_cache_usage_perc{engine="0"} 0.0',
                f'vllm:cache_config_info{{block_size="{BLOCK}",engine="0",num_gpu_blocks="{BLOCKS}"}} 1.0',
                self.more_metrics,
            ]
        )


def logits(token_ids: list[int]) -> np.ndarray:
    """The model: some numbers that depend on the last three tokens."""
    seed = int.from_bytes(blake2b(bytes(token_ids[-3:]), digest_size=8).digest())
    return np.random.default_rng(seed).normal(0, 2, VOCAB)


def choose(
    params: dict[str, Any], noise: str, prompt: list[int], output: list[int]
) -> tuple[int, np.ndarray]:
    """The next token, and the log-probabilities that the model gives."""
    raw = logits(prompt + output)
    row = raw.copy()
    if params.get("allowed_token_ids"):
        kept = np.full(VOCAB, -np.inf)
        kept[params["allowed_token_ids"]] = 0
        row += kept
    if len(output) < params.get("min_tokens", 0):
        row[params.get("stop_token_ids", [])] = -np.inf
    for token_id, bias in (params.get("logit_bias") or {}).items():
        row[int(token_id)] += bias
    repeated = sorted({*prompt, *output})
    penalty = params.get("repetition_penalty", 1.0)
    row[repeated] = np.where(row[repeated] > 0, row[repeated] / penalty, row[repeated] * penalty)
    for token_id, count in Counter(output).items():
        row[token_id] -= params.get("presence_penalty", 0) + count * params.get("frequency_penalty", 0)
    logprobs = raw - np.log(np.exp(raw - raw.max()).sum()) - raw.max()
    if not params["temperature"]:
        return int(row.argmax()), logprobs
    at = len(prompt) + len(output) if noise == "position" else len(output)
    generator = np.random.default_rng([abs(params["seed"]), at])
    row = row / params["temperature"]
    if params.get("top_k"):
        row[row < np.sort(row)[-params["top_k"]]] = -np.inf
    return int((row + generator.gumbel(size=VOCAB)).argmax()), logprobs


def _app(state: Imitation) -> FastAPI:
    app = FastAPI()

    @app.get("/health")
    async def health() -> Response:
        return Response()

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": state.version}

    @app.get("/v1/models")
    async def models(request: Request) -> Any:
        if state.key is not None and request.headers.get("authorization") != f"Bearer {state.key}":
            return JSONResponse({"error": "Unauthorized"}, status_code=401)
        one = {"id": state.model, "root": f"/models/{state.model}", "parent": None, "max_model_len": CONTEXT}
        return {"data": [one]}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(state.metrics())

    @app.post("/inference/v1/abort_requests")
    async def abort(request: Request) -> Response:
        state.aborted += (await request.json())["request_ids"]
        return Response()

    @app.post("/inference/v1/generate")
    async def generate(request: Request) -> Response:
        body = await request.json()
        if "sampling_params" not in body:
            return _error(400, "sampling_params: field required")
        if body["model"] != state.model:
            return _error(404, f"The model `{body['model']}` does not exist.")
        if not body.get("stream"):  # how an engine finds out about the noise
            tokens = [found[0] for found in _generated(state, body)]
            return JSONResponse({"choices": [{"token_ids": tokens}]})
        state.bodies.append(body)
        if state.refusals:
            return _error(state.refusals.pop(0), "not now")
        if body["sampling_params"]["temperature"] > 2:
            return _error(400, "temperature must be in [0, 2]")
        name = f"generate-tokens-{request.headers['x-request-id']}"
        return StreamingResponse(_stream(state, body, name), media_type="text/event-stream")

    return app


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "code": status}}, status_code=status)


def _generated(state: Imitation, body: dict[str, Any]) -> Any:
    params, output = body["sampling_params"], []
    while len(output) < params["max_tokens"]:
        token_id, logprobs = choose(params, state.noise, body["token_ids"], output)
        output.append(token_id)
        ends = token_id in params.get("stop_token_ids", [])
        yield (
            token_id,
            logprobs,
            "stop" if ends else "length" if len(output) == params["max_tokens"] else None,
        )
        if ends:
            return


async def _stream(state: Imitation, body: dict[str, Any], name: str) -> Any:
    breaks_after = state.breaks_after.pop(0) if state.breaks_after else None
    told = state.events.pop(0) if state.events else json.dumps
    state.running.add(name)
    try:
        for place, (token_id, logprobs, finish) in enumerate(_generated(state, body)):
            if place == breaks_after:
                raise ConnectionResetError
            while state.hangs:  # noqa: ASYNC110 - set by another thread
                await asyncio.sleep(0.01)
            choice = {"index": 0, "finish_reason": finish, "token_ids": [token_id], "logprobs": None}
            most = body["sampling_params"].get("logprobs")
            if most is not None:
                choice["logprobs"] = {"content": [_entry(token_id, logprobs, most)]}
            yield f"data: {told({'choices': [choice]})}\n\n"
            await asyncio.sleep(0)
        yield "data: [DONE]\n\n"
    finally:
        state.running.discard(name)


def _entry(token_id: int, logprobs: np.ndarray, most: int) -> dict[str, Any]:
    order = np.argsort(-logprobs).tolist()
    rank = {each: place + 1 for place, each in enumerate(order)}
    listed = [token_id, *(each for each in order[:most] if each != token_id)]
    top = [{"token_id": each, "logprob": float(logprobs[each]), "rank": rank[each]} for each in listed]
    return top[0] | {"top_logprobs": top}
