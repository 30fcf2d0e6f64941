"""Short passages of real text out of one file: docstrings and comment blocks of Python, paragraphs of prose. Nothing is imported."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Short enough that each is one chunk: at 2.4 characters a token, the densest that was seen, 600 characters are 250 tokens.
MIN_CHARACTERS, MAX_CHARACTERS = 60, 600
_MIN_COMMENT = 150  # characters; shorter comments are remarks on the next line of code and would outnumber docstrings
_MAX_FILE_BYTES = 1_000_000  # larger ones are data, not text
_MAX_PER_FILE = 200  # so that no single file dominates
_MIN_WORDS = 8
_MIN_LETTERS = 0.6  # share of letters and spaces below which a paragraph is a table, a path list or commented-out code

_WORD = re.compile(r"[A-Za-z]{2,}")
_PARAGRAPHS = re.compile(r"\n\s*\n")

_Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Passage:
    """A piece of text and where it stands: `name` is a dotted name or a place in the file, `kind` what it was."""

    name: str
    kind: str
    line: int
    text: str


def passages(path: Path, module: str) -> Iterator[Passage]:
    """At most 200 passages of a file in their order; none if it is too large, not UTF-8 or not valid Python. `module` names the file."""
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            return
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return
    found = _python(source, module) if path.suffix == ".py" else _prose(source, module)
    for count, passage in enumerate(filter(_is_text, found)):
        if count == _MAX_PER_FILE:
            return
        yield passage


def _is_text(passage: Passage) -> bool:
    text = passage.text
    if not MIN_CHARACTERS <= len(text) <= MAX_CHARACTERS or len(_WORD.findall(text)) < _MIN_WORDS:
        return False
    if any("\ud800" <= character <= "\udfff" for character in text):  # a docstring may escape half a surrogate pair, which UTF-8 cannot hold
        return False
    return sum(character.isalpha() or character.isspace() for character in text) >= _MIN_LETTERS * len(text)


def _python(source: str, module: str) -> Iterator[Passage]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in somebody else's strings
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    yield from _docstrings(tree, module)
    yield from _comments(source, module)


def _docstrings(node: ast.AST, name: str) -> Iterator[Passage]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (text := ast.get_docstring(node)):
        line = 1 if isinstance(node, ast.Module) else node.lineno
        yield from (Passage(name, _kind(node), line, part) for part in _parts(text))
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstrings(child, f"{name}.{child.name}")
        elif isinstance(child, ast.stmt):  # definitions under `if` and `try`
            yield from _docstrings(child, name)


def _parts(text: str) -> Iterator[str]:
    """A text that is too long in parts of whole paragraphs, each as long as allowed; a paragraph that is too long by itself stays so."""
    part = ""
    for paragraph in _PARAGRAPHS.split(text):
        if part and len(part) + 2 + len(paragraph) > MAX_CHARACTERS:
            yield part
            part = ""
        part = f"{part}\n\n{paragraph}" if part else paragraph
    yield part


def _kind(node: _Definition) -> str:
    if isinstance(node, ast.Module):
        return "module"
    return "class" if isinstance(node, ast.ClassDef) else "function"


def _comments(source: str, module: str) -> Iterator[Passage]:
    """Neighbouring lines that are nothing but a comment, as one text."""
    block: list[str] = []
    first = 1
    for number, line in enumerate([*source.splitlines(), ""], start=1):
        stripped = line.strip()
        if stripped.startswith("#"):
            if not block:
                first = number
            block.append(stripped.lstrip("#!").strip())
        elif block:
            text = " ".join(filter(None, block))
            if len(text) >= _MIN_COMMENT:
                yield Passage(f"{module}:{first}", "comment", first, text)
            block = []


def _prose(source: str, module: str) -> Iterator[Passage]:
    line = 1
    at = 0
    for match in [*_PARAGRAPHS.finditer(source), None]:
        end = len(source) if match is None else match.start()
        yield Passage(f"{module}:{line}", "text", line, " ".join(source[at:end].split()))
        if match is not None:
            line += source.count("\n", at, match.end())
            at = match.end()
