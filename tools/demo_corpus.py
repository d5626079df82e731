"""The text the built-in model learns: what CPython says about itself (PSF licence).

Three kinds of text, all from the running interpreter's own files: docstrings of the standard library, the
language reference's topics (`pydoc_data.topics`), and questions with docstrings as their answers.
"""

import ast
import importlib
import inspect
import random
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from pydoc_data import topics

C_MODULES = (
    "builtins",
    "array",
    "binascii",
    "cmath",
    "errno",
    "fcntl",
    "gc",
    "itertools",
    "marshal",
    "math",
    "operator",
    "os",
    "posix",
    "re",
    "select",
    "signal",
    "socket",
    "sqlite3",
    "struct",
    "sys",
    "time",
    "unicodedata",
    "zlib",
    "functools",
    "collections",
    "datetime",
    "decimal",
    "json",
    "io",
    "random",
)
"""Modules whose docstrings live in compiled code."""

_SKIPPED = {"test", "tests", "idlelib", "lib2to3", "site-packages", "__pycache__", "turtledemo", "encodings"}

_QUESTIONS = (
    "What does {name} do?",
    "What is {name}?",
    "Explain {name}.",
    "How do I use {name}?",
    "Tell me about {name} in Python.",
)


def documented() -> Iterator[tuple[str, str]]:
    """Every documented thing of the standard library: its qualified name and its docstring."""
    seen: set[str] = set()
    for name, text in (*_compiled(), *_source()):
        text = inspect.cleandoc(text).strip()
        if len(text) > 30 and name not in seen:
            seen.add(name)
            yield name, text


def _compiled() -> Iterator[tuple[str, str]]:
    for module_name in C_MODULES:
        module = importlib.import_module(module_name)
        for name, thing in sorted(vars(module).items()):
            if name.startswith("_"):
                continue
            prefix = "" if module_name == "builtins" else f"{module_name}."
            if doc := inspect.getdoc(thing) if callable(thing) else None:
                yield f"{prefix}{name}", doc
            if isinstance(thing, type):
                for method_name, method in sorted(vars(thing).items()):
                    if not method_name.startswith("_") and (doc := inspect.getdoc(method)):
                        yield f"{prefix}{name}.{method_name}", doc


def _source() -> Iterator[tuple[str, str]]:
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if _SKIPPED & set(parts):
            continue
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        yield from _docs(tree, ".".join(part for part in parts if part != "__init__"))


def _docs(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        if doc := ast.get_docstring(node):
            yield name, doc
        for child in node.body:
            named = isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            if named and not child.name.startswith("_"):
                yield from _docs(child, f"{name}.{child.name}")


def answer(text: str, limit: int = 500) -> str:
    """The first paragraphs of a docstring, whole."""
    kept = ""
    for paragraph in re.split(r"\n\s*\n", text):
        if kept and len(kept) + len(paragraph) > limit:
            break
        kept += ("\n\n" if kept else "") + paragraph.strip("\n")
    return kept[: 2 * limit]


def documents(seed: int) -> list[str]:
    """The plain texts, in random order."""
    plain = [f"{name}\n\n{text}" for name, text in documented()]
    plain += [text.strip() for text in topics.topics.values()]
    random.Random(seed).shuffle(plain)
    return plain


def chats(seed: int) -> list[tuple[str, str]]:
    """Questions and answers, in random order."""
    rng = random.Random(seed)
    pairs = [(rng.choice(_QUESTIONS).format(name=name), answer(text)) for name, text in documented()]
    pairs += [
        (f"What does Python say about {name}?", answer(text, 900)) for name, text in topics.topics.items()
    ]
    rng.shuffle(pairs)
    return pairs
