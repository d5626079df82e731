"""What clients ask of a trained model: SmolLM2-135M-Instruct, where it can be had (`make smollm2`)."""

import json
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from openai import OpenAI

from headrace import Client

from ....support.forkserver import Forkserver
from ....support.smollm2 import folder_or_skip
from ....support.tool_models import tool_model
from .test_python import INI

if TYPE_CHECKING:
    from headrace.local.embedded_redis import EmbeddedRedis

HERE = Path(__file__).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.serial,
    pytest.mark.timeout(400),
    pytest.mark.xdist_group("gateway"),
]

Calls = list[tuple[str, str]]

MOST_TOKENS = 32
"""Of an answer that is compared with that of `transformers`, which takes most of the time."""


@pytest.fixture(scope="module")
def trained(
    stack_redis: "EmbeddedRedis", forkserver: Forkserver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A worker that serves SmolLM2 with a chat template that shows tools; gives the model's name."""
    weights, folder = folder_or_skip(), tmp_path_factory.mktemp("trained") / "smollm2"
    template = (HERE / "small_model_tools.jinja").read_text()
    with tool_model(stack_redis.url, forkserver, folder, weights=weights, template=template):
        yield folder.name


def test_langchains_own_tests_of_tools_pass(
    python: Callable[[str], str], run: Callable[..., str], trained: str, tmp_path: Path
) -> None:
    suite = shutil.copy(HERE / "langchain_suite.py", tmp_path)
    (tmp_path / "pytest.ini").write_text(INI)
    options = ("-v", "--tb=short", "-p", "no:cacheprovider", "-c", "pytest.ini", "--junitxml", "report.xml")
    # Whether Chinese names are copied is the model's affair: this one writes on until `max_tokens`.
    chosen = ("-k", "Trained and (tool or agent_loop) and not (image or pdf or unicode)")
    run(
        python("langchain_tests"),
        "-m",
        "pytest",
        *options,
        *chosen,
        suite,
        folder=tmp_path,
        TOOLS_MODEL=trained,
    )
    cases = ET.parse(tmp_path / "report.xml").getroot().findall(".//testcase")
    assert len(cases) > 20
    assert not [case.attrib["name"] for case in cases if case.find("skipped") is not None]


def calls_in(text: str) -> Calls:
    """The calls in an answer, read by a program that isn't ours."""
    found = []
    for written in re.findall(r"<tool_call>(.*?)</tool_call>", text, re.DOTALL):
        try:
            call = json.loads(written)
            found.append((call["name"], json.dumps(call["arguments"])))
        except (ValueError, KeyError, TypeError):
            continue
    return found


def written_by_transformers(cases: dict[str, Any]) -> dict[str, str]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    weights, template = folder_or_skip(), (HERE / "small_model_tools.jinja").read_text()
    tokenizer = AutoTokenizer.from_pretrained(weights)
    model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32).eval()
    options = {"do_sample": False, "max_new_tokens": MOST_TOKENS, "pad_token_id": tokenizer.eos_token_id}
    texts = {}
    for name, case in cases.items():
        shown = tokenizer.apply_chat_template(
            case["messages"],
            tools=case["tools"],
            chat_template=template,
            add_generation_prompt=True,
            tokenize=False,
        )
        ids = tokenizer(shown, return_tensors="pt", add_special_tokens=False)
        out = model.generate(**ids, **options)[0, ids["input_ids"].shape[1] :]
        texts[name] = tokenizer.decode(out, skip_special_tokens=True)
    return texts


def test_bfcl_scores_a_served_model_as_it_does_the_weights_themselves(
    python: Callable[[str], str],
    run: Callable[..., str],
    trained: str,
    shared_gateway: Any,
    jobs: Client,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    program = python("bfcl_eval"), str(HERE / "bfcl_cases.py")
    cases = json.loads(run(*program, folder=tmp_path))
    openai = OpenAI(base_url=shared_gateway.base_url, api_key="-", max_retries=0, timeout=300)

    def asked(name: str, **fields: Any) -> tuple[str, Calls]:
        chat = openai.chat.completions.create(
            **cases[name], **fields, model=trained, temperature=0, store=True
        )
        choice = chat.choices[0]
        calls = [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()]
        if choice.finish_reason == "length":
            calls = calls[: max(1, len(calls) - 1)]  # max_tokens may have cut the last one
        return jobs.job(chat.id.removeprefix("chatcmpl-")).result().text, calls

    def by_itself(name: str) -> tuple[str, Calls]:
        return asked(name, max_tokens=MOST_TOKENS)

    def required(name: str) -> tuple[str, Calls]:
        return asked(
            name, max_tokens=150, tool_choice="required", parallel_tool_calls=name.startswith("parallel")
        )

    def scores(answers: dict[str, Calls]) -> dict[str, Any]:
        file = tmp_path / "answers.json"
        file.write_text(json.dumps(answers))
        found: dict[str, Any] = json.loads(run(*program, str(file), folder=tmp_path))
        return found

    with openai, ThreadPoolExecutor() as threads:
        served = dict(zip(cases, threads.map(by_itself, cases), strict=True))
        enforced = dict(zip(cases, threads.map(required, cases), strict=True))
    itself = written_by_transformers(cases)
    assert {name: text for name, (text, _) in served.items()} == itself
    ours = scores({name: calls for name, (_, calls) in served.items()})
    assert ours == scores({name: calls_in(text) for name, text in itself.items()})
    must = scores({name: calls for name, (_, calls) in enforced.items()})
    with capsys.disabled():
        for what, found in (("by itself", ours), ("required", must)):
            read, valid = (sum(each[key] for each in found.values()) for key in ("read", "valid"))
            print(f"\nBFCL, {what}: of {len(found)} answers {read} are calls, {valid} right")
    assert all(each["read"] for each in must.values()), (must, enforced)
