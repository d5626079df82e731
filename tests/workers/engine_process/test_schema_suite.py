"""The JSON Schema Test Suite against grammars: what is valid is allowed, what is invalid is not.

What llguidance doesn't enforce is refused by its keyword; what it does otherwise than the suite says is named
here, case by case, so that a new version that does better or worse is noticed.
"""

import json
import re
from collections import Counter
from typing import Any

import jsonschema
import numpy as np
import pytest

from headrace.workers.engine_process.text import GrammarError, Grammars, Tokenizer
from headrace.workers.engine_process.text.grammar import json_grammar
from headrace.workers.models import resolve_model

from ...support.json_schema_suite import cases_or_skip
from .test_schemas import answers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

END, MOST_TOKENS = 0, 60

JAVASCRIPT = {"optional/ecmascript-regex", "pattern"}
"""Files with regexes that Python's own, and so jsonschema, read otherwise or not at all."""

REFUSED = {
    "a keyword": "Unimplemented keys",
    "oneOf": "oneOf constraints are not supported",
    "a format": "Unknown format",
    "another document": "is not present in a registry",
    "nothing follows it": "Unsatisfiable schema",
    "a number written as 2.0": "Expected positive integer",
    "a number beyond 64 bits": "float range|too many digits",
    "properties that match two patterns": "are not disjoint",
    "a regex of JavaScript's": "regex parse error",
}
KEYWORDS = {
    *("$dynamicAnchor", "$dynamicRef", "contains", "dependencies", "dependentRequired", "dependentSchemas"),
    *("else", "if", "maxContains", "minContains", "not", "propertyNames", "then", "unevaluatedItems"),
    *("unevaluatedProperties", "uniqueItems"),
}
FORMATS = {
    *("idn-email", "idn-hostname", "iri", "iri-reference", "json-pointer", "regex", "relative-json-pointer"),
    *("uri-reference", "uri-template"),
}

STRICTER = {
    "allOf": 2,  # properties in another order than the schema's
    "const": 5,  # the same, and 1.0 for 1
    "enum": 4,  # 1.0 for 1
    "type": 1,  # 1.0 as an integer
    "format": 10,  # formats are enforced, which the suite leaves open
    "optional/ecmascript-regex": 1,  # the byte order mark is no white space
    "optional/float-overflow": 1,  # 1e308 as an integer
    "optional/format/email": 4,  # quoted names, addresses of IPv6
    "optional/format/ipv6": 4,  # with the last four bytes in decimals
}
"""Valid instances that are not allowed, by file: an answer is written otherwise, and valid."""

LAXER = {
    "optional/ecmascript-regex": 1,  # the byte order mark is no white space
    "optional/format/date": 2,  # 29 February in any year
    "optional/format/date-time": 2,  # leap seconds at any time
    "optional/format/time": 10,  # the same
}
"""Invalid instances that are allowed, by file."""


@pytest.fixture(scope="module")
def suite() -> list[tuple[str, dict[str, Any]]]:
    """The cases whose schema is an object, each with the name of its file."""
    return [(file, case) for file, case in cases_or_skip() if isinstance(case["schema"], dict)]


@pytest.fixture(scope="module")
def grammars() -> Grammars:
    return Grammars(Tokenizer(resolve_model("demo")), 4096, [END])


def refusal(grammars: Grammars, grammar: str) -> str:
    """Why a grammar can't be followed; empty if it can."""
    try:
        grammars.follow(grammar)
    except GrammarError as error:
        return str(error)
    return ""


def allows(grammars: Grammars, grammar: str, token_ids: list[int]) -> bool:
    """Whether these tokens may be a whole answer."""
    mask = np.zeros(128, np.int32)
    try:
        grammars.follow(grammar, token_ids).fill(mask)
    except GrammarError:
        return False
    return bool(mask[END // 32] >> END % 32 & 1)


def test_what_the_suite_says_of_an_instance_holds_but_where_it_is_named(suite, grammars):
    tokenizer = Tokenizer(resolve_model("demo"))
    refused: Counter[str] = Counter()
    keywords: set[str] = set()
    formats: set[str] = set()
    stricter: Counter[str] = Counter()
    laxer: Counter[str] = Counter()
    instances = 0
    for file, case in suite:
        grammar = json_grammar(case["schema"])
        if reason := refusal(grammars, grammar):
            (why,) = [name for name, sign in REFUSED.items() if re.search(sign, reason)]
            refused[why] += 1
            if why == "a keyword":
                keywords |= set(json.loads(reason.partition(": ")[2]))
            if why == "a format":
                formats.add(reason.partition(": ")[2])
            continue
        for each in case["tests"]:
            instances += 1
            text = json.dumps(each["data"], ensure_ascii=False)
            allowed = allows(grammars, grammar, tokenizer.encode(text))
            if allowed is not each["valid"]:
                (laxer if allowed else stricter)[file] += 1
    print(f"{len(suite)} schemas, {dict(refused)} refused; {instances} instances")
    assert (len(suite), instances) == (436, 984)
    assert (keywords, formats) == (KEYWORDS, FORMATS)
    assert dict(stricter) == STRICTER
    assert dict(laxer) == LAXER


def test_every_answer_that_ends_follows_the_suites_schema(suite, grammars):
    schemas = [
        case["schema"]
        for file, case in suite
        if file not in JAVASCRIPT and not refusal(grammars, json_grammar(case["schema"]))
    ]
    ended = 0
    for schema, text in answers(resolve_model("demo"), "The JSON is:\n", schemas, MOST_TOKENS):
        errors = jsonschema.Draft202012Validator(schema).iter_errors(json.loads(text))
        assert not [error.message for error in errors], (schema, text)
        ended += 1
    print(f"{ended} of {len(schemas)} answers ended, the others were cut at {MOST_TOKENS} tokens")
    assert ended > 0.4 * len(schemas)
