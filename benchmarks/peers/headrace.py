"""headrace's engine: greedy, no prefix shared, pages for all requests."""

import torch

from headrace.engine import Engine, EngineConfig, Request, SamplingParams

PACKAGES = ("headrace", "torch")
QUANTIZATIONS = ("int8",)


def load(*, model, scratch, device, threads, requests, context, step_tokens, quantization=None):
    page_size = 16
    engine = Engine(
        EngineConfig(
            model=model,
            device=device,
            quantization=quantization,
            threads=threads,
            prefix_cache=False,
            page_size=page_size,
            num_pages=requests * -(-context // page_size) + 1,
            max_batch_size=requests,
            max_step_tokens=step_tokens,
            max_context_tokens=context,
        )
    )

    def run(work):
        for number, (prompt, output) in enumerate(work):
            params = SamplingParams(max_tokens=output, temperature=0.0, ignore_eos=True)
            engine.submit(Request(str(number), prompt, params))
        tokens = [0] * len(work)
        while engine.has_work:
            for progress in engine.step():
                tokens[int(progress.id)] += len(progress.token_ids)
        if device != "cpu":
            torch.cuda.synchronize()
        return tokens

    return run
