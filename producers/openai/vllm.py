"""vLLM's additions to OpenAI's requests, which clients send to any server but OpenAI's."""

VLLM_PASSED = frozenset(
    {
        *("top_k", "min_p", "repetition_penalty", "min_tokens", "ignore_eos", "stop_token_ids"),
        *("prompt_token_ids", "allowed_token_ids"),
    }
)
"""Fields that are arguments of a job under the same name."""

VLLM_NEUTRAL: dict[str, tuple[object, ...]] = {
    "bad_words": ([],),
    "best_of": (1,),
    "detokenize": (True,),
    "early_stopping": (False,),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "priority": (0,),
    "prompt_logprobs": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "use_beam_search": (False,),
}
"""Fields that are accepted only at these values, where they have no effect."""
