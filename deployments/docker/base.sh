#!/usr/bin/env bash
# Makes a base image out of Debian's packages, for machines that cannot pull images: `base.sh NAME` makes NAME with Python 3.11 and certificates
# (what the images run on) and NAME-build with python3-venv besides (what they are built on). Needs root, debootstrap and buildah (tools.sh).
#
# Where images can be pulled it is not needed: the Dockerfile's own base is the official Python image.
#
# Environment:
#   DEBIAN_MIRROR  where the packages come from (default: that of debootstrap)
set -euo pipefail

readonly name=${1:?name of the image, for example localhost/kb-python:bookworm}
scratch=$(mktemp -d)
container=
clean_up() {
  [[ -z $container ]] || buildah rm "$container" >/dev/null
  rm -rf "$scratch"
}
trap clean_up EXIT

make_image() { # image, packages
  local image=$1 root=$scratch/root
  if buildah images --quiet "$image" >/dev/null 2>&1; then return; fi
  echo "==> $image: Debian 12 with $2 (debootstrap, about a minute)"
  rm -rf "$root"
  if ! debootstrap --variant=minbase --include="$2" bookworm "$root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$scratch/log" 2>&1; then
    tail -20 "$scratch/log" "$root/debootstrap/debootstrap.log" >&2 || true
    exit 1
  fi
  # Package archives and lists are of no use in an image.
  rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$root" / >/dev/null
  buildah commit --quiet --format docker "$container" "$image" >/dev/null
  buildah rm "$container" >/dev/null
  container=
}

make_image "$name" python3-minimal,libpython3-stdlib,libstdc++6,ca-certificates
make_image "$name-build" python3,python3-venv,ca-certificates,libstdc++6
