"""llama.cpp through llama-cpp-python: bf16 or Q8_0 weights in GGUF, continuous batching by its batch calls.

Every step holds one token of each running sequence and prompt tokens up to the step's size, as in llama.cpp's
own server; the next token is the argmax of its logits.
"""

import json
from pathlib import Path

import gguf
import llama_cpp as llama
import numpy as np

PACKAGES = ("llama-cpp-python",)
QUANTIZATIONS = ("int8",)

TENSORS = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def load(*, model, scratch, device, threads, requests, context, step_tokens, quantization=None):
    if device != "cpu":
        raise RuntimeError("built for the CPU only")
    llama.llama_backend_init()
    options = llama.llama_context_default_params()
    options.n_ctx, options.n_seq_max = requests * context, requests
    options.n_batch = options.n_ubatch = step_tokens
    options.n_threads = options.n_threads_batch = threads
    path = Path(scratch) / "model.gguf"
    vocab = convert(Path(model), path, quantization)
    loading = llama.llama_model_default_params()
    loading.use_extra_bufts = not quantization  # its AMX layout of Q8_0 ended in a segmentation fault
    loaded = llama.llama_model_load_from_file(str(path).encode(), loading)
    runner = llama.llama_init_from_model(loaded, options)
    path.unlink()
    memory, batch = llama.llama_get_memory(runner), llama.llama_batch_init(step_tokens, 0, 1)

    def step(rows):
        """Compute rows of (token, position, sequence, wanted); the next token of each wanted sequence."""
        for index, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[index], batch.pos[index], batch.logits[index] = token, position, wanted
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
        batch.n_tokens = len(rows)
        if status := llama.llama_decode(runner, batch):
            raise RuntimeError(f"llama_decode returned {status}")
        logits = [
            (row[2], llama.llama_get_logits_ith(runner, index)) for index, row in enumerate(rows) if row[3]
        ]
        return [(sequence, int(np.ctypeslib.as_array(row, (vocab,)).argmax())) for sequence, row in logits]

    def run(work):
        tokens, computed = [list(prompt) for prompt, _ in work], [0] * len(work)
        made, live = [0] * len(work), list(range(len(work)))
        while live:
            rows = []
            for sequence in sorted(live, key=lambda n: len(tokens[n]) - computed[n] > 1):
                known, start = tokens[sequence], computed[sequence]
                end = min(len(known), start + step_tokens - len(rows))
                rows += [(known[n], n, sequence, n + 1 == len(known)) for n in range(start, end)]
                computed[sequence] = end
            for sequence, token in step(rows):
                tokens[sequence].append(token)
                made[sequence] += 1
                if made[sequence] == work[sequence][1]:
                    live.remove(sequence)
                    llama.llama_memory_seq_rm(memory, sequence, -1, -1)
        return made

    return run


def convert(model, path, quantization):
    """Write the Llama checkpoint as GGUF, without a tokenizer. Returns the size of the vocabulary."""
    kind = gguf.GGMLQuantizationType.Q8_0 if quantization else gguf.GGMLQuantizationType.BF16
    config = json.loads((model / "config.json").read_text())
    heads, kv_heads, dim = (
        config[name] for name in ("num_attention_heads", "num_key_value_heads", "head_dim")
    )
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tokenizer_model("no_vocab")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(dim)
    writer.add_value_length(dim)
    writer.add_rope_dimension_count(dim)
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0 if quantization else gguf.LlamaFileType.MOSTLY_BF16)
    for name, weight in checkpoint(model / "model.safetensors"):
        layer, _, part = name.removeprefix("model.layers.").removesuffix(".weight").partition(".")
        if not name.startswith("model.layers."):
            layer, part = "", name.removesuffix(".weight")
        if part in ("self_attn.q_proj", "self_attn.k_proj"):  # GGUF rotates neighbours, not halves
            count = heads if part == "self_attn.q_proj" else kv_heads
            weight = weight.reshape(count, 2, dim // 2, -1).swapaxes(1, 2).reshape(weight.shape)
        target = f"blk.{layer}.{TENSORS[part]}.weight" if layer else f"{TENSORS[part]}.weight"
        wide = (weight.astype(np.uint32) << 16).view(np.float32)
        if weight.ndim == 1:
            writer.add_tensor(target, wide)
        else:
            writer.add_tensor(target, gguf.quantize(wide, kind).view(np.uint8), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return config["vocab_size"]


def checkpoint(path):
    """Names and values of a safetensors file of bfloat16, which numpy has as uint16."""
    size = int.from_bytes(path.open("rb").read(8), "little")
    header = json.loads(path.open("rb").read(8 + size)[8:])
    data = np.memmap(path, np.uint8, "r", offset=8 + size)
    for name, about in header.items():
        if name != "__metadata__":
            start, end = about["data_offsets"]
            yield name, data[start:end].view(np.uint16).reshape(about["shape"])
