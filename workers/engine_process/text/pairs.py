"""A query and a document as one prompt, for models that score how well one answers the other."""

import json
from pathlib import Path
from typing import Any

QWEN3_RERANKER = "qwen3-reranker"

_QWEN3_RERANKER = """\
<|im_start|>system
Judge whether the Document meets the requirements based on the Query and the Instruct provided. \
Note that the answer can only be "yes" or "no".<|im_end|>
<|im_start|>user
<Instruct>: Given a web search query, retrieve relevant passages that answer the query
<Query>: {{ messages[0].content }}
<Document>: {{ messages[1].content }}<|im_end|>
<|im_start|>assistant
<think>

</think>


"""
"""As its model card has it; the last line break of a template is not part of its text."""

LONGEST_TEMPLATE_BYTES = 1 << 20


def pair_of(query: str, document: str) -> list[dict[str, Any]]:
    """A query and a document as messages for a template."""
    return [{"role": "query", "content": query}, {"role": "document", "content": document}]


def read_template(setting: str | None, *, by_words: bool) -> str | None:
    """The template of the setting `score_template`; None if the document simply follows the query.

    Args:
        setting: the setting.
        by_words: whether the model scores by the words that it answers with.

    Raises:
        ValueError: there is no such file, or it is no template.
    """
    if setting is None and not by_words:
        return None
    if setting in (None, QWEN3_RERANKER):
        return _QWEN3_RERANKER
    path = Path(setting)
    try:
        if path.stat().st_size > LONGEST_TEMPLATE_BYTES:
            raise ValueError(f"score_template: {setting!r} is larger than {LONGEST_TEMPLATE_BYTES:,} bytes")
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"score_template: {setting!r} can't be read ({error}); give a file with a Jinja template, or "
            f"{QWEN3_RERANKER}"
        ) from None


def words_of(setting: tuple[str, str] | None, folder: Path) -> tuple[str, str] | None:
    """The words for no and yes with which a model answers; None if it doesn't score by those.

    Args:
        setting: the setting `classifier_from_token`.
        folder: the model's, whose config.json may name them.

    Raises:
        ValueError: config.json names something else than two words.
    """
    if setting is not None or not (folder / "config.json").is_file():
        return setting
    try:
        config = json.loads((folder / "config.json").read_text())
    except ValueError:  # the engine says what is wrong with it
        return None
    words = config.get("classifier_from_token") if isinstance(config, dict) else None
    if words is None:
        return None
    if not isinstance(words, list) or len(words) != 2 or not all(isinstance(each, str) for each in words):
        raise ValueError("classifier_from_token in config.json must be two words, those for no and yes")
    return words[0], words[1]
