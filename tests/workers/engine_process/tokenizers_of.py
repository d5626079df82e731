"""Tokenizers of the common kinds, small enough to be made in a test."""

import json
from pathlib import Path

from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from headrace.workers.engine_process.text import Tokenizer

SPECIALS = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
WORDS = ("▁there", "▁was", "▁a", "▁river", ".", "▁", "the", "s", "t", "h", "e")


def byte_level(folder: Path, template: str | None = None, **config: object) -> Tokenizer:
    """A token for each byte, like the smallest vocabulary of GPT-2 or Qwen."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({token: at for at, token in enumerate([*SPECIALS, *letters])}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return _saved(folder, backend, template, **config)


def word_pieces(folder: Path, template: str | None = None, **config: object) -> Tokenizer:
    """Words that begin with ▁, and bytes for all else, like Llama 2 and Mistral."""
    vocab = {token: at for at, token in enumerate(SPECIALS)}
    vocab |= {f"<0x{byte:02X}>": len(SPECIALS) + byte for byte in range(256)}
    merges = []
    for word in WORDS:
        vocab.setdefault(word[0], len(vocab))
        for end in range(2, len(word) + 1):
            vocab.setdefault(word[end - 1], len(vocab))
            if word[:end] not in vocab:
                vocab[word[:end]] = len(vocab)
                merges.append((word[: end - 1], word[end - 1]))
    backend = Backend(models.BPE(vocab, merges, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _saved(folder, backend, template, **config)


def _saved(folder: Path, backend: Backend, template: str | None, **config: object) -> Tokenizer:
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    backend.save(str(folder / "tokenizer.json"))
    said = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", "bos_token": "<s>"} | config
    (folder / "tokenizer_config.json").write_text(json.dumps(said))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return Tokenizer(str(folder))
