"""A few tokens generated before the first request, so that a model that can't run is refused at the start."""

from collections.abc import Iterator

from .errors import ModelError, is_out_of_memory
from .parameters import SamplingParams
from .protocol import EngineProtocol
from .request import FinishReason, Pooling, Request

_TOKENS = 2
"""Tokens per prompt: the first comes from prefill, the second from a decode."""


def self_test(engine: EngineProtocol) -> None:
    """Generate from single tokens at the beginning, the middle and the end of the vocabulary.

    If one of them yields nothing, that token may never have been trained; if all do, it is the model.

    Raises:
        ModelError: no token can be computed, or none can be chosen.
    """
    vocab = engine.model_info.vocab_size
    if engine.capacity_tokens < 2:
        raise ModelError(
            f"only {engine.capacity_tokens} token fits here, prompt and output together: raise num_pages, "
            "page_size, kv_memory_bytes or max_context_tokens"
        )
    # A set: a vocabulary of one or two tokens has fewer of them.
    prompts = sorted({0, vocab // 2, vocab - 1})
    params = SamplingParams(max_tokens=_TOKENS, temperature=0.0, ignore_eos=True)
    pooling = None if engine.model_info.generates else Pooling()
    try:
        for token_id in prompts:
            name = f"self-test {token_id}"
            engine.submit(Request(name, [token_id], params, cache_salt="self-test", pooling=pooling))
        errors = list(_errors(engine))
    except Exception as error:
        if is_out_of_memory(error):
            reason = "there is not enough memory for it"
        else:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ModelError(f"the model's first step failed: {reason}") from error
    if len(errors) == len(prompts):
        raise ModelError(f"the model produces no token, whatever the prompt: {errors[0]}")


def _errors(engine: EngineProtocol) -> Iterator[str]:
    while engine.has_work:
        for progress in engine.step():
            if progress.finish_reason is FinishReason.ERROR:
                yield progress.error
