"""Python's other clients of OpenAI's API, from the environment that `make clients` makes."""

import json
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

HERE = Path(__file__).parent
WEIGHTS = HERE.parents[3] / "workers" / "demo_model"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.serial,
    pytest.mark.timeout(400),
    pytest.mark.xdist_group("gateway"),
]

INI = """[pytest]
asyncio_mode = auto
asyncio_default_fixture_loop_scope = session
asyncio_default_test_loop_scope = session
"""
"""`ChatOpenAI` shares connections between all models of a process, so its tests share a loop."""

WAITING = {
    **dict.fromkeys(
        (
            "test_tool_calling",
            "test_tool_calling_async",
            "test_bind_runnables_as_tools",
            "test_tool_message_histories_string_content",
            "test_tool_message_histories_list_content",
            "test_tool_choice",
            "test_tool_calling_with_no_arguments",
            "test_tool_message_error_status",
            "test_structured_few_shot_examples",
            "test_agent_loop",
            "test_unicode_tool_call_integration",
        ),
        "the built-in model's chat template takes no tools; a trained model is asked in another test",
    ),
    **dict.fromkeys(
        (
            "test_structured_output",
            "test_structured_output_async",
            "test_structured_output_pydantic_2_v1",
            "test_structured_output_optional_param",
            "test_json_mode",
        ),
        "the built-in model seldom ends a text within a schema; a trained model is asked in another test",
    ),
    **dict.fromkeys(
        (
            "test_pdf_inputs",
            "test_audio_inputs",
            "test_image_inputs",
            "test_image_tool_message",
            "test_pdf_tool_message",
        ),
        "the engine reads text alone",
    ),
    "test_anthropic_inputs": "content parts of Anthropic's API, which are for `/v1/messages`",
    "test_stream_time": "measures time with recorded answers",
}
"""LangChain's tests that are skipped, with the reason."""


def test_langchains_own_tests_of_a_chat_model_pass(python, run, tmp_path):
    suite = shutil.copy(HERE / "langchain_suite.py", tmp_path)
    (tmp_path / "pytest.ini").write_text(INI)
    options = ("-q", "-p", "no:cacheprovider", "-c", "pytest.ini", "--junitxml", "report.xml")
    options += ("-k", "not Trained")
    run(python("langchain_tests"), "-m", "pytest", *options, suite, folder=tmp_path)
    cases = ET.parse(tmp_path / "report.xml").getroot().findall(".//testcase")
    skipped = {case.attrib["name"].partition("[")[0] for case in cases if case.find("skipped") is not None}
    assert skipped == WAITING.keys()


def test_agents_of_openai_and_pydantic_converse(python, run, tmp_path):
    python("pydantic_ai")
    run(python("agents"), str(HERE / "two_agents.py"), folder=tmp_path)


def test_lm_eval_gives_the_gateway_the_scores_of_the_weights_themselves(python, run, tmp_path):
    tasks = shutil.copytree(HERE / "lm_eval_task", tmp_path / "task")
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    printed = run(
        python("lm_eval"), str(HERE / "lm_eval_scores.py"), str(WEIGHTS), ".", folder=tasks, **offline
    )
    found = json.loads(printed.splitlines()[-1])
    for itself, served in found.values():
        assert served["score"] == itself["score"]
        assert 0 < served["score"] < 1
    itself, served = found.pop("continuations")
    for mine, theirs in zip(served["answers"], itself["answers"], strict=True):
        assert [greedy for _, greedy in mine] == [greedy for _, greedy in theirs]
        assert [logprob for logprob, _ in mine] == pytest.approx([logprob for logprob, _ in theirs], abs=1e-4)
    assert all(served["answers"] == itself["answers"] for itself, served in found.values())
