"""`transformers`' continuous batching, its manager kept running between the measured runs."""

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

PACKAGES = ("transformers", "torch")


def load(*, model, scratch, device, threads, requests, context, step_tokens):
    torch.set_num_threads(threads)
    decoder = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).to(device).eval()
    greedy = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=context)
    config = ContinuousBatchingConfig(
        max_memory_percent=0.2, max_requests_per_batch=requests, allow_block_sharing=False
    )
    manager = decoder.init_continuous_batching(greedy, config)
    manager.warmup()
    manager.start()

    def run(work):
        order = {
            manager.add_request(prompt, max_new_tokens=output): n for n, (prompt, output) in enumerate(work)
        }
        tokens, left = [0] * len(work), len(work)
        while left:
            result = manager.get_result(timeout=60)
            if result is None:
                raise RuntimeError("no result within a minute")
            if result.is_finished():
                tokens[order[result.request_id]] = len(result.generated_tokens)
                left -= 1
        return tokens

    return run
