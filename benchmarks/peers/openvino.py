"""OpenVINO GenAI's continuous batching over an export in bf16 (or int8 weights), with its own defaults.

Its default KV cache on the CPU is int8, half the bytes of everybody else's. On a single core it dies
of a division by zero.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino as ov
import openvino_genai as genai

PACKAGES = ("openvino-genai", "openvino", "optimum-intel")
QUANTIZATIONS = ("int8",)
EXPORT = """
import sys
from optimum.intel import OVModelForCausalLM
model = OVModelForCausalLM.from_pretrained(sys.argv[1], export=True, load_in_8bit=bool(sys.argv[3]))
model.save_pretrained(sys.argv[2])
"""


def load(*, model, scratch, device, threads, requests, context, step_tokens, quantization=None):
    if device != "cpu":
        raise RuntimeError("runs on the CPU only")
    exported = Path(scratch) / "openvino"
    subprocess.run([sys.executable, "-c", EXPORT, model, exported, quantization or ""], check=True)
    config = genai.SchedulerConfig()
    config.max_num_seqs = requests
    config.max_num_batched_tokens = step_tokens
    config.cache_size = 2
    config.enable_prefix_caching = False
    properties = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "bf16"}
    pipeline = genai.ContinuousBatchingPipeline(str(exported), config, "CPU", properties, {})
    shutil.rmtree(exported, ignore_errors=True)

    def run(work):
        handles = []
        for number, (prompt, output) in enumerate(work):
            greedy = genai.GenerationConfig()
            greedy.max_new_tokens = greedy.min_new_tokens = output
            greedy.ignore_eos, greedy.do_sample = True, False
            greedy.set_eos_token_id(0)
            ids = ov.Tensor(np.array([prompt], dtype=np.int64))
            handles.append(pipeline.add_request(number, ids, greedy))
        while pipeline.has_non_finished_requests():
            pipeline.step()
        return [len(handle.read_all()[0].generated_ids) for handle in handles]

    return run
