"""Prints cases of the Berkeley Function-Calling Leaderboard, or what its AST checker says of answers to them.

    bfcl_cases.py                       a few cases a category: id, messages, tools
    bfcl_cases.py FILE                  FILE has answers by id, each a list of [name, arguments as text]

A table in the package imports the handlers of all models, and with them some thirty SDKs. The checker looks
up one thing in it, how a model spells names, so it is given a table of one model.
"""

import json
import sys
from importlib import resources
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

models = ModuleType("bfcl_eval.constants.model_config")
models.MODEL_CONFIG_MAPPING = {"smollm2": SimpleNamespace(underscore_to_dot=False)}  # type: ignore[attr-defined]
sys.modules[models.__name__] = models

from bfcl_eval.constants.enums import Language  # noqa: E402
from bfcl_eval.constants.type_mappings import GORILLA_TO_OPENAPI  # noqa: E402
from bfcl_eval.eval_checker.ast_eval.ast_checker import ast_checker  # noqa: E402

CASES = {
    "simple_python": ("simple_python_97", "simple_python_18", "simple_python_24", "simple_python_20"),
    "multiple": ("multiple_73", "multiple_29", "multiple_2"),
    "parallel": ("parallel_75", "parallel_7", "parallel_60"),
}
"""The shortest of each category."""


def lines(name: str) -> dict[str, Any]:
    text = (resources.files("bfcl_eval") / "data" / name).read_text()
    return {each["id"]: each for each in map(json.loads, text.splitlines())}


def schema(of: Any) -> Any:
    """A schema with the types' names in JSON Schema."""
    if isinstance(of, list):
        return [schema(each) for each in of]
    if not isinstance(of, dict):
        return of
    found = {name: schema(value) for name, value in of.items() if name != "optional"}
    if isinstance(found.get("type"), str):
        found["type"] = GORILLA_TO_OPENAPI[found["type"]]
    return found


def tool(function: dict[str, Any]) -> dict[str, Any]:
    parameters = schema(function["parameters"]) | {"additionalProperties": False}
    return {"type": "function", "function": {**function, "parameters": parameters}}


def verdict(
    category: str, case: dict[str, Any], answer: list[tuple[str, str]], right: list[Any]
) -> dict[str, Any]:
    """Whether the answer can be read as calls, and whether these are right."""
    try:
        calls = [{name: json.loads(arguments)} for name, arguments in answer]
    except ValueError:
        return {"read": False, "valid": False}
    if not calls or not all(isinstance(arguments, dict) for call in calls for arguments in call.values()):
        return {"read": False, "valid": False}
    found = ast_checker(case["function"], calls, right, Language.PYTHON, category, "smollm2")
    return {"read": True, "valid": found["valid"]}


answers = json.loads(Path(sys.argv[1]).read_text()) if sys.argv[1:] else None
out = {}
for category, ids in CASES.items():
    cases = lines(f"BFCL_v4_{category}.json")
    right = lines(f"possible_answer/BFCL_v4_{category}.json")
    for name in ids:
        if answers is None:
            tools = [tool(function) for function in cases[name]["function"]]
            out[name] = {"messages": cases[name]["question"][0], "tools": tools}
        else:
            out[name] = verdict(category, cases[name], answers[name], right[name]["ground_truth"])
print(json.dumps(out))
