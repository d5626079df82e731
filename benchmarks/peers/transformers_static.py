"""`transformers`' generate over static batches: sorted by prompt length, padded left, SDPA, dynamic cache.

A batch runs until its longest request ends, so large batches waste rows and small ones waste the products. On
the CPU the first run, which warms up, tries BATCHES and keeps the fastest; a GPU takes all requests at once.
"""

import time

import torch
from transformers import AutoModelForCausalLM

PACKAGES = ("transformers", "torch")
BATCHES = (16, 32, 64)


def load(*, model, scratch, device, threads, requests, context, step_tokens):
    torch.set_num_threads(threads)
    decoder = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).to(device).eval()
    chosen = requests if device != "cpu" else None

    @torch.inference_mode()
    def generate(work, batch):
        tokens = [0] * len(work)
        order = sorted(range(len(work)), key=lambda index: len(work[index][0]))
        for start in range(0, len(order), batch):
            members = order[start : start + batch]
            width = max(len(work[index][0]) for index in members)
            ids = torch.zeros(len(members), width, dtype=torch.int64)
            mask = torch.zeros_like(ids)
            for row, index in enumerate(members):
                prompt = torch.tensor(work[index][0])
                ids[row, width - len(prompt) :] = prompt
                mask[row, width - len(prompt) :] = 1
            out = decoder.generate(
                ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=max(work[index][1] for index in members),
                do_sample=False,
                pad_token_id=0,
            )
            made = out.cpu().shape[1] - width
            for index in members:
                tokens[index] = min(made, work[index][1])
        return tokens

    def run(work):
        nonlocal chosen
        if chosen is None and len(work) > 1:
            chosen = min(BATCHES, key=lambda batch: timed(work, batch))
        return generate(work, chosen or 1)

    def timed(work, batch):
        started = time.perf_counter()
        generate(work, batch)
        return time.perf_counter() - started

    return run
