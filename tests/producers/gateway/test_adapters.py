"""LoRA adapters at the gateway: operators load them, everybody asks for them by name."""

import httpx
import pytest

from headrace import Client
from headrace.schemas.adapters import folder_fingerprint

from ...support.gateways import gateway
from .test_requests import error_of

pytestmark = [pytest.mark.serial, pytest.mark.xdist_group("gateway"), pytest.mark.usefixtures("worker")]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    return tmp_path


def test_an_adapter_is_loaded_listed_asked_for_and_dropped(http, jobs: Client, folder) -> None:
    load = {"lora_name": "tuned", "lora_path": str(folder), "base_model": "demo"}
    loaded = http.post("/v1/load_lora_adapter", json=load)
    assert loaded.json() == {
        "name": "tuned",
        "base": "demo",
        "source": str(folder),
        "fingerprint": folder_fingerprint(folder),
    }
    base, model = (http.get(f"/v1/models/{name}").json() for name in ("demo", "tuned"))
    assert model == base | {"id": "tuned", "root": str(folder), "parent": "demo"}
    assert model in http.get("/v1/models").json()["data"]
    # The shared worker serves none, and says so.
    asked = {"model": "tuned", "prompt": "x", "max_tokens": 2}
    refused = error_of(http.post("/v1/completions", json=asked), 400)["message"]
    assert "adapter 'tuned' can't be loaded: its worker serves none" in refused
    assert "--max-adapters" in refused
    assert http.post("/v1/unload_lora_adapter", json={"lora_name": "tuned"}).json() == {"name": "tuned"}
    assert "'tuned'" in error_of(http.post("/v1/completions", json=asked), 404)["message"]
    again = http.post("/v1/unload_lora_adapter", json={"lora_name": "tuned"})
    assert "no adapter 'tuned'" in error_of(again, 400)["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "lora_name"),
        ({"lora_name": "a", "lora_path": ""}, "lora_path"),
        ({"lora_name": "a", "x": 1}, "lora_path"),
    ],
)
def test_a_wrong_body_is_refused_by_field(http, body, param) -> None:
    assert error_of(http.post("/v1/load_lora_adapter", json=body), 400)["param"] == param


def test_only_operators_load_adapters_and_keys_name_those_they_may_use(
    stack_redis, jobs: Client, folder
) -> None:
    keys = [
        jobs.admin.create_api_key("t", operator=True),
        jobs.admin.create_api_key("t", models=("demo",)),
    ]
    with gateway(stack_redis.url, gateway_auth=True) as running, httpx.Client(base_url=running.url) as http:
        operator, user = ({"authorization": f"Bearer {key.key.get_secret_value()}"} for key in keys)
        load = {"lora_name": "tuned", "lora_path": str(folder), "base_model": "demo"}
        assert http.post("/v1/load_lora_adapter", json=load, headers=user).status_code == 403
        assert http.post("/v1/load_lora_adapter", json=load, headers=operator).status_code == 200
        asked = {"model": "tuned", "prompt": "x"}
        assert http.post("/v1/completions", json=asked, headers=user).status_code == 404
        assert "tuned" not in http.get("/v1/models", headers=user).text
        unload = {"lora_name": "tuned"}
        assert http.post("/v1/unload_lora_adapter", json=unload, headers=user).status_code == 403
        assert http.post("/v1/unload_lora_adapter", json=unload, headers=operator).status_code == 200
    for key in keys:
        jobs.admin.revoke_api_key(key.id)
