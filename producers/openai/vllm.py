"""vLLM's additions to OpenAI's requests, which clients send to any server but OpenAI's."""

from ...schemas.job import Job

_OPENAI = {
    *(
        "model",
        "prompt",
        "messages",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "reasoning_effort",
        "max_tokens",
        "temperature",
        "top_p",
        "seed",
        "stop",
        "logprobs",
    ),
    *("presence_penalty", "frequency_penalty", "logit_bias", "response_format", "n", "stream", "metadata"),
}
"""Arguments of a job that OpenAI's API has, too."""

_QUEUE = {
    *("job_class", "tenant", "idempotency_key", "delay_s", "deadline_s", "max_runtime_s", "max_attempts"),
    "webhook",
    *("embed", "continuation", "document"),
}
"""Arguments of a job that say nothing of what is generated."""

VLLM_PASSED = frozenset(Job.model_fields) - _OPENAI - _QUEUE
"""Fields that are arguments of a job under the same name."""

VLLM_NEUTRAL: dict[str, tuple[object, ...]] = {
    "best_of": (1,),
    "detokenize": (True,),
    "early_stopping": (False,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "priority": (0,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "use_beam_search": (False,),
}
"""Fields that are accepted only at these values, where they have no effect."""
