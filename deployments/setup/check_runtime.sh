#!/usr/bin/env bash
# Proves that runtime.lock is enough to serve: installs it alone into a scratch environment, imports every module of the services there, and
# embeds a text with the exported model (`make setup` has made it). Takes about a minute: `make check-runtime`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

.venv/bin/python -m venv "$scratch/venv"
if ! "$scratch/venv/bin/pip" install --disable-pip-version-check --no-deps --require-hashes --requirement deployments/setup/requirements/runtime.lock >"$scratch/log" 2>&1; then
  cat "$scratch/log" >&2
  exit 1
fi
KB_MODEL_DIR=${KB_MODEL_DIR:-.kb/models} "$scratch/venv/bin/python" - <<'PYTHON'
import asyncio
import importlib
import os
import pkgutil
import sys
from pathlib import Path

import services
import shared

# They run on developers' machines and while images are built: protoc, the exporter with its reference model, what `kb observe --check` parses
# and draws with.
DEVELOPMENT = {
    "shared.gen.generate",
    "shared.embedding.export",
    "shared.embedding.conversion",
    *(f"services.cli.observe.{name}" for name in ("check", "drawing", "expressions", "previews")),
}

modules = [
    module.name for package in (services, shared) for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    if module.name not in DEVELOPMENT and not module.name.endswith("__main__")
]
for name in modules:
    importlib.import_module(name)

from shared.embedding.factory import create_embedder


async def embed() -> tuple[int, ...]:
    embedder = create_embedder("onnx", "all-MiniLM-L6-v2", Path(os.environ["KB_MODEL_DIR"]), concurrency=1, arena=False)
    await embedder.load()
    return (await embedder.embed(["a text"])).shape


shape = asyncio.run(embed())
assert shape == (1, 384), shape
assert "torch" not in sys.modules
print(f"runtime.lock serves: {len(modules)} modules imported, a text embedded")
PYTHON
