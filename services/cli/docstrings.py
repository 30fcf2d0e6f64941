"""The docstrings of the installed Python standard library as documents: a text of some size that every machine has."""

from __future__ import annotations

import ast
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from shared.domain import DocumentId, DocumentInput, Metadata

# Not the library itself: tests, third parties' packages, and the example programs of IDLE and turtle.
_IGNORED = frozenset({"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__", "turtledemo", "idlelib", "lib2to3"})

_Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def modules() -> Iterator[Path]:
    """Source files of the standard library, in the order of their paths."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        if _IGNORED.isdisjoint(path.relative_to(root).parts):
            yield path


def documents(path: Path) -> Iterator[DocumentInput]:
    """One document for each docstring of a module; nothing is imported. A file that is not valid Python gives none.

    The id is the dotted name (`json.decoder.JSONDecoder.decode`); metadata: `module`, `kind` (module, class or function), `line` and
    `lines` (of the definition, not of the docstring).
    """
    module = module_name(path)
    source = path.read_bytes()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in somebody else's strings
            tree = ast.parse(source, filename=str(path))
    except (SyntaxError, ValueError):
        return
    seen: set[str] = set()
    for name, node in _walk(tree, module):
        text = ast.get_docstring(node)
        # Alternatives under `if` define a name twice; the first one counts.
        if text and text.strip() and name not in seen and len(name.encode()) <= 256:
            seen.add(name)
            first, last = (1, source.count(b"\n")) if isinstance(node, ast.Module) else (node.lineno, node.end_lineno or node.lineno)
            metadata: Metadata = {"module": module, "kind": _kind(node), "line": first, "lines": last - first + 1}
            yield DocumentInput(DocumentId(name), name, text, metadata)


def module_name(path: Path) -> str:
    """Dotted name of a file of the standard library; a package has that of its folder."""
    parts = path.relative_to(sysconfig.get_path("stdlib")).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def chosen(names: Iterable[str]) -> dict[str, list[Path]]:
    """For each name of a module or package, the files of it that have docstrings; those of a package include its modules'."""
    wanted = {name: list[Path]() for name in names}
    for path in modules():
        module = module_name(path)
        for name, paths in wanted.items():
            if is_within(module, name) and any(documents(path)):
                paths.append(path)
    return wanted


def is_within(dotted: str, module: str) -> bool:
    """Whether a dotted name is that of the module or of something in it."""
    return dotted == module or dotted.startswith(f"{module}.")


def _kind(node: _Definition) -> str:
    if isinstance(node, ast.Module):
        return "module"
    return "class" if isinstance(node, ast.ClassDef) else "function"


def _walk(node: ast.AST, name: str) -> Iterator[tuple[str, _Definition]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield name, node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _walk(child, f"{name}.{child.name}")
        else:
            yield from _walk(child, name)
