"""Which files there are under the paths that were named. Holds one folder's names at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from services.cli.ingest.items import Remark, SourceFile, Verdict

# Folders of tools, never of documents; so are all whose name begins with a dot.
_IGNORED_FOLDERS = frozenset({"__pycache__", "node_modules"})


@dataclass(frozen=True, slots=True)
class Walk:
    """Files under `paths`, in the order of the paths and then of the names.

    Attributes:
        paths: Files, which are always taken, and folders. Hidden files and folders in them are left out; links to folders are not followed.
        globs: If any, files in folders must match one, from the right: `*.md`, `guide/*.txt`.
        base: What names are relative to. None: the current directory for what lies below it, else the folder that holds the path.
    """

    paths: Sequence[Path]
    globs: Sequence[str] = ()
    base: Path | None = None

    def __iter__(self) -> Iterator[SourceFile | Remark]:
        """Files, and a FAILED remark for each path or folder that cannot be read or has no name relative to `base`."""
        for path in self.paths:
            base = self._base_of(path)
            try:
                is_folder, exists = path.is_dir(), path.exists()
            except OSError as problem:  # a folder above it may not be entered, or the name is too long
                yield Remark(Verdict.FAILED, str(path), problem.strerror or str(problem))
                continue
            if is_folder:
                yield from self._folder(path, base)
            elif exists:
                yield self._named(path, base)
            else:
                yield Remark(Verdict.FAILED, str(path), "there is no such file or folder")

    def count(self) -> int:
        """How many files there are, by walking once more."""
        return sum(isinstance(item, SourceFile) for item in self)

    def _base_of(self, path: Path) -> Path:
        if self.base is not None:
            return self.base.absolute()
        here = Path.cwd()
        return here if _normal(path).is_relative_to(here) else _normal(path).parent

    def _folder(self, top: Path, base: Path) -> Iterator[SourceFile | Remark]:
        problems: list[OSError] = []
        for folder, folders, files in os.walk(top, onerror=problems.append):
            # In place: os.walk goes on with what is left in this list.
            folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _IGNORED_FOLDERS)
            for name in sorted(files):
                path = Path(folder, name)
                if not name.startswith(".") and self._wanted(path):
                    yield self._named(path, base)
            while problems:
                yield _unreadable(problems.pop())
        for problem in problems:
            yield _unreadable(problem)

    def _wanted(self, path: Path) -> bool:
        return not self.globs or any(path.match(pattern) for pattern in self.globs)

    def _named(self, path: Path, base: Path) -> SourceFile | Remark:
        try:
            relative = _normal(path).relative_to(base)
        except ValueError:
            return Remark(Verdict.FAILED, str(path), f"is not below {base}")
        name = str(PurePosixPath(relative))
        try:
            name.encode()
        except UnicodeEncodeError:
            return Remark(Verdict.FAILED, ascii(str(path)), "its name is not valid UTF-8: rename it")
        return SourceFile(path, name)


def _normal(path: Path) -> Path:
    """Absolute, without `..`, links not followed: the name that the user sees."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.resolve follows links, Path.absolute keeps `..`


def _unreadable(problem: OSError) -> Remark:
    return Remark(Verdict.FAILED, str(problem.filename), problem.strerror or str(problem))
