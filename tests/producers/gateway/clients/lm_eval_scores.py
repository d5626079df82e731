"""Prints what `lm-eval` makes of the built-in model by itself and through the gateway: answers and scores.

Those of `continuations` are likelihoods: of each choice its log-probability, and whether it is the likeliest.
"""

import json
import os
import sys

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

WEIGHTS, TASKS = sys.argv[1:]
URL = os.environ["OPENAI_BASE_URL"]
ITSELF = "hf", {"pretrained": WEIGHTS, "dtype": "float32", "device": "cpu"}
SERVED = {
    "model": "demo",
    "num_concurrent": 4,
    "max_retries": 1,
    "tokenizer_backend": None,
    "tokenized_requests": False,
}


def scores(task: str, model: str, arguments: dict[str, object], *, chat: bool = False) -> dict[str, object]:
    found = simple_evaluate(
        model,
        model_args=arguments,
        tasks=[task],
        task_manager=TaskManager(include_path=TASKS, include_defaults=False),
        apply_chat_template=chat,
        bootstrap_iters=0,
    )
    samples = sorted(found["samples"][task], key=lambda sample: sample["doc_id"])
    results = found["results"][task]
    return {
        "score": results.get("exact_match,first_words", results.get("acc,none")),
        "answers": [[response for (response,) in sample["resps"]] for sample in samples],
    }


chats, completions = (
    SERVED | {"base_url": f"{URL}/chat/completions"},
    SERVED | {"base_url": f"{URL}/completions"},
)
scored = completions | {
    "tokenizer_backend": "huggingface",
    "tokenizer": WEIGHTS,
    "tokenized_requests": True,
}
found = {
    "questions": [
        scores("questions", *ITSELF, chat=True),
        scores("questions", "local-chat-completions", chats, chat=True),
    ],
    "openings": [
        scores("openings", *ITSELF),
        scores("openings", "local-completions", completions),
    ],
    "continuations": [
        scores("continuations", *ITSELF),
        scores("continuations", "local-completions", scored),
    ],
}
print(json.dumps(found))
