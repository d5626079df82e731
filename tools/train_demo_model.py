"""Train the built-in model: `python tools/train_demo_model.py --minutes 25`.

A Llama of 4.5 million parameters and a byte-level BPE of 4,096 tokens, from the text in `demo_corpus`. The
seed fixes the data order and the weights' beginning; how far training goes depends on the minutes given.
"""

import argparse
import json
import math
import platform
import random
import time
from pathlib import Path

import demo_corpus
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

END_OF_TEXT, SYSTEM, USER, ASSISTANT, END = (
    "<|endoftext|>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|end|>",
)
SPECIAL = [END_OF_TEXT, SYSTEM, USER, ASSISTANT, END]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + message['role'] + ': use system, user or assistant') }}"
    "{% endif %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
VOCAB, CONTEXT, WINDOW, BATCH = 4096, 2048, 256, 16
PEAK_RATE, WARM_UP = 3e-3, 100


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT, END],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    ends = tokenizer.convert_tokens_to_ids([END_OF_TEXT, END])
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=640,
        num_hidden_layers=5,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=ends,
        pad_token_id=ends[0],
    )
    return LlamaForCausalLM(config)


def token_stream(tokenizer: PreTrainedTokenizerFast, seed: int) -> torch.Tensor:
    """One epoch: plain texts and chats mixed, each ended."""
    texts = [text + END_OF_TEXT for text in demo_corpus.documents(seed)]
    texts += [
        f"{USER}\n{question}{END}\n{ASSISTANT}\n{reply}{END}\n{END_OF_TEXT}"
        for question, reply in demo_corpus.chats(seed)
    ]
    random.Random(seed).shuffle(texts)
    encoded = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    return torch.tensor([token for item in encoded for token in item.ids])


def rate(done: float, step: int) -> float:
    """Warm-up, then a cosine down to a twentieth, over the share of the time that is done."""
    return PEAK_RATE * min(1.0, (step + 1) / WARM_UP) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))


def train(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, minutes: float, seed: int
) -> dict[str, float]:
    decayed = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}], betas=(0.9, 0.95)
    )
    started, step, epoch, tokens = time.monotonic(), 0, 0, 0
    average = float("nan")
    model.train()
    while True:
        stream = token_stream(tokenizer, seed + epoch)
        shift = random.Random(seed + epoch).randrange(WINDOW)
        windows = stream[shift : shift + (len(stream) - shift) // WINDOW * WINDOW].view(-1, WINDOW)
        order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed + epoch))
        for batch in order.split(BATCH):
            done = (time.monotonic() - started) / (60 * minutes)
            if done >= 1:
                return {"steps": step, "epochs": epoch, "tokens": tokens, "loss": round(average, 3)}
            for group in optimizer.param_groups:
                group["lr"] = rate(done, step)
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = model(input_ids=windows[batch], labels=windows[batch]).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step, tokens = step + 1, tokens + windows[batch].numel()
            average = loss.item() if math.isnan(average) else 0.98 * average + 0.02 * loss.item()
            if step % 50 == 0:
                print(f"step {step}  epoch {epoch}  {done:.0%}  loss {average:.3f}", flush=True)
        epoch += 1


def name_for_transformers_4(path: Path) -> None:
    """Use the names that transformers 4 knows, too, for the tokenizer's class and its special tokens."""
    config = json.loads(path.read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config["additional_special_tokens"] = config.pop("extra_special_tokens")
    del config["backend"]
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def sample(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    model.eval()
    for prompt in (
        "A dictionary is",
        "The built-in function sorted",
        f"{USER}\nWhat does str.split do?{END}\n{ASSISTANT}\n",
    ):
        ids = torch.tensor([tokenizer.backend_tokenizer.encode(prompt, add_special_tokens=False).ids])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=80, do_sample=False)
        print("----", tokenizer.decode(out[0], skip_special_tokens=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "workers" / "demo_model")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    texts = demo_corpus.documents(options.seed)
    tokenizer = train_tokenizer(texts + [f"{q}\n{a}" for q, a in demo_corpus.chats(options.seed)])
    model = make_model(tokenizer)
    print(
        f"{model.num_parameters():,} parameters, {sum(map(len, texts)):,} characters of plain text",
        flush=True,
    )
    facts = train(model, tokenizer, options.minutes, options.seed)
    model.to(torch.bfloat16)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    name_for_transformers_4(options.out / "tokenizer_config.json")
    facts |= {"minutes": options.minutes, "seed": options.seed, "python": platform.python_version()}
    (options.out / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    print(facts)
    sample(model, tokenizer)


if __name__ == "__main__":
    main()
