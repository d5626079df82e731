"""LiteLLM's proxy in front of the gateway, asked by OpenAI's client."""

import json
import os
import secrets
import subprocess
from pathlib import Path

import httpx
import openai
import pytest

from ....support.processes import Running
from ....support.waiting import wait_until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.serial,
    pytest.mark.timeout(400),
    pytest.mark.xdist_group("gateway"),
]

ASKED = {"messages": [{"role": "user", "content": "What does str.split do?"}], "seed": 1}
USAGE = {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture
def proxied(python, shared_gateway, limited, worker, free_port, tmp_path):
    """OpenAI's client of a proxy that has the gateway's model under a name for all that may go wrong."""
    program = Path(python("litellm")).with_name("litellm")
    here, there = (shared_gateway.base_url, "-"), limited["LIMITED_BASE_URL"]
    upstream = {
        "ours": ("demo", *here),
        "missing": ("none-such", *here),
        "stranger": ("demo", there, "hr-wrong"),
        "slow": ("demo", there, limited["SLOW_KEY"]),
        "full": ("demo", there, limited["FULL_KEY"]),
    }
    models = [
        {"model_name": name, "litellm_params": {"model": f"openai/{model}", "api_base": url, "api_key": key}}
        for name, (model, url, key) in upstream.items()
    ]
    settings = {"num_retries": 0, "disable_cooldowns": True}
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"model_list": models, "router_settings": settings}))
    command = [program, "--config", config, "--host", "127.0.0.1", "--port", str(free_port)]
    key = f"sk-{secrets.token_hex(32)}"
    told = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": key}
    log = tmp_path / "litellm.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=told, cwd=tmp_path)
    proxy, url = Running(process, log), f"http://127.0.0.1:{free_port}"
    try:
        wait_until(lambda: proxy.ended or answers(f"{url}/health/liveliness"))
        assert not proxy.ended, proxy.said()[-4000:]
        with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
            yield client
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def counts(usage: openai.types.CompletionUsage) -> tuple[int, int, int]:
    return usage.prompt_tokens, usage.completion_tokens, usage.total_tokens


def test_what_the_gateway_answers_and_refuses_comes_through_a_proxy(proxied, shared_gateway, limited):
    with openai.OpenAI(base_url=shared_gateway.base_url, api_key="-") as client:
        direct = client.chat.completions.create(**ASKED, model="demo", max_tokens=24)
    whole = proxied.chat.completions.create(**ASKED, model="ours", max_tokens=24)
    assert whole.choices[0].message.content == direct.choices[0].message.content
    assert counts(whole.usage) == counts(direct.usage)
    *chunks, last = proxied.chat.completions.create(**ASKED, **USAGE, model="ours", max_tokens=24)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == direct.choices[0].message.content
    assert counts(last.usage) == counts(direct.usage)
    completed = proxied.completions.create(model="ours", prompt="A list is", max_tokens=4, seed=1)
    assert completed.choices[0].text

    for status, model, fields, says in (
        (404, "missing", {}, "none-such"),
        (400, "ours", {"temperature": 101}, "temperature"),
        (401, "stranger", {}, ""),
    ):
        for stream in (False, True):
            with pytest.raises(openai.APIStatusError) as refused:
                proxied.chat.completions.create(**ASKED, **fields, model=model, stream=stream)
            assert (refused.value.status_code, says in str(refused.value)) == (status, True), refused.value

    for status, model, key, most in ((429, "slow", "SLOW_KEY", 635), (503, "full", "FULL_KEY", 1)):
        held = {"model": "demo", "prompt": "x", "delay_s": 3600, "max_tokens": most}
        headers = {"authorization": f"Bearer {limited[key]}"}
        with httpx.Client(base_url=limited["LIMITED_BASE_URL"], headers=headers, timeout=90) as http:
            job_id = http.post("jobs", json=held).json()["id"]
            with pytest.raises(openai.APIStatusError) as refused:
                proxied.chat.completions.create(**ASKED, model=model, max_tokens=1)
            assert refused.value.status_code == status, refused.value
            http.post(f"jobs/{job_id}/cancel")
