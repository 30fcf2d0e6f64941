"""Generates the Python stubs of `protos/` into `shared/gen`.

`python -m shared.gen.generate` writes them; with `--check` it writes nothing and exits 1 if what is committed differs.

The compiler writes absolute imports (`from knowledgebeast.common.v1 import …`), which would need `shared/gen` on the import path. They are
rewritten to `from shared.gen.knowledgebeast…`, so that a stub has one name wherever it is imported from.
"""

from __future__ import annotations

import argparse
import importlib.resources
import re
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parents[2]
PROTOS = ROOT / "protos"
OUTPUT = ROOT / "shared" / "gen"

_IMPORT = re.compile(r"^(\s*(?:from|import)) knowledgebeast\b", re.MULTILINE)
_REFERENCE = re.compile(r"(?<![\w.\"'/])knowledgebeast\.(?=(?:common|query|indexer|ops)\.v1\.\w+_pb2)")


def _compile(target: Path) -> None:
    """Runs protoc on every file of `protos/`. Raises SystemExit when it fails."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={PROTOS}",
            f"--proto_path={well_known}",
            f"--python_out={target}",
            f"--grpc_python_out={target}",
            f"--mypy_out=quiet:{target}",
            f"--mypy_grpc_out=quiet:{target}",
            *sources,
        ]
    )
    if status != 0:
        raise SystemExit(f"protoc failed with status {status}")


def _generated(directory: Path) -> dict[Path, str]:
    """The generated files below `directory` by their relative paths, with rewritten imports."""
    files = {}
    for path in sorted(directory.rglob("*.py*")):
        if path.suffix in {".py", ".pyi"}:
            text = _IMPORT.sub(r"\1 shared.gen.knowledgebeast", path.read_text())
            files[path.relative_to(directory)] = _REFERENCE.sub("shared.gen.knowledgebeast.", text)
    return files


def main() -> None:
    """Entry point of the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the committed stubs are out of date")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        _compile(Path(directory))
        wanted = _generated(Path(directory))
    for package in {parent for path in wanted for parent in path.parents if parent != Path()}:
        wanted[package / "__init__.py"] = ""
    present = {path.relative_to(OUTPUT): path.read_text() for path in (OUTPUT / "knowledgebeast").rglob("*.py*") if "__pycache__" not in path.parts}
    stale = sorted(str(path) for path in wanted.keys() | present.keys() if wanted.get(path) != present.get(path))
    if arguments.check:
        if stale:
            sys.exit("generated code is out of date, run `make gen`: " + ", ".join(stale))
        return
    for path in present.keys() - wanted.keys():
        (OUTPUT / path).unlink()
    for path, text in wanted.items():
        (OUTPUT / path).parent.mkdir(parents=True, exist_ok=True)
        (OUTPUT / path).write_text(text)
    sys.stdout.write(f"{len(wanted)} files, {len(stale)} changed\n")


if __name__ == "__main__":
    main()
