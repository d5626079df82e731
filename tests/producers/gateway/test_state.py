"""What one gateway process remembers."""

import json

import pytest
from redis import Redis

from headrace import AsyncClient
from headrace.producers.gateway import state
from headrace.producers.gateway.app import create_app
from headrace.schemas import keys
from headrace.schemas.settings.gateway import GatewaySettings


async def test_a_model_served_again_with_a_longer_context_is_noticed(
    redis_url: str, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with AsyncClient(redis_url) as client:
        gateway = create_app(GatewaySettings(), client).state.gateway
        redis.hset(keys.models(), "m", json.dumps({"context_tokens": 512}))
        assert await gateway.context_tokens("m") == 512
        redis.hset(keys.models(), "m", json.dumps({"context_tokens": 4096}))
        assert await gateway.context_tokens("m") == 512  # not asked for at every request
        monkeypatch.setattr(state, "MODELS_S", 0.0)
        assert await gateway.context_tokens("m") == 4096
        assert await gateway.context_tokens("nobody's") is None
