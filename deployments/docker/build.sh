#!/usr/bin/env bash
# Builds the images knowledgebeast/indexer and knowledgebeast/query with the version of shared/version.py: `make images`. Takes whichever of docker
# (with BuildKit), podman and buildah is there; BUILDER names one. Arguments go to it, for example `--platform` or more `--build-arg`.
#
# Environment:
#   BUILDER          docker, podman or buildah
#   REGISTRY         before the images' names, for example `registry.example.com/`
#   PYTHON_IMAGE     base image, best with its digest; BUILD_IMAGE: base of the stages that build (see the Dockerfile)
#   PIP_TORCH_ARGS   arguments for the installation of torch alone
#   PIP_CONFIG_FILE  pip's configuration, where packages come from somewhere else; it is mounted while pip runs and stays out of the images
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

die() {
  echo "make images: $*" >&2
  exit 1
}

builder=${BUILDER:-}
for candidate in docker podman buildah; do
  # A client without its engine builds nothing.
  [[ -n $builder ]] || { "$candidate" info >/dev/null 2>&1 && builder=$candidate; }
done
[[ -n $builder ]] || die "needs docker, podman or buildah. Debian, as root: deployments/docker/tools.sh"

version=$(sed -n 's/^VERSION: Final = "\(.*\)"$/\1/p' shared/version.py)
[[ -n $version ]] || die "no VERSION in shared/version.py"
revision=$(git rev-parse HEAD 2>/dev/null || true)
[[ -z $revision || -z $(git status --porcelain 2>/dev/null) ]] || revision+=-changed

arguments=(--file deployments/docker/Dockerfile --build-arg "VERSION=$version" --build-arg "REVISION=$revision" --build-arg "TORCH=$(sed -n 's/^ *"\(torch==[0-9.]*\)".*/\1/p' pyproject.toml)")
for name in PYTHON_IMAGE BUILD_IMAGE PIP_TORCH_ARGS; do
  [[ -z ${!name:-} ]] || arguments+=(--build-arg "$name=${!name}")
done
[[ -z ${PIP_CONFIG_FILE:-} ]] || arguments+=(--secret "id=pip,src=$PIP_CONFIG_FILE")
# The OCI format has no health command; Docker's has.
[[ $builder == docker ]] || arguments+=(--format docker --layers)

for target in indexer query; do
  image=${REGISTRY:-}knowledgebeast/$target:$version
  echo "==> $image, with $builder"
  "$builder" build "${arguments[@]}" --target "$target" --tag "$image" "$@" .
done
