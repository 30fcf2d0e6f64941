#!/usr/bin/env bash
# Installs what `make images` builds with on a machine that has no image builder and cannot pull images: Debian's buildah (builds), podman and runc
# (run), and debootstrap (makes a base image out of Debian's packages). As root on Debian and its like only; elsewhere it says what is missing.
#
# Nothing is started or enabled: buildah and podman are programs, not daemons. To remove them: apt-get purge buildah podman runc debootstrap.
set -euo pipefail

readonly packages=(buildah podman runc debootstrap)
missing=()
for package in "${packages[@]}"; do
  type -P "$package" >/dev/null || missing+=("$package")
done
((${#missing[@]} > 0)) || exit 0

if ((EUID != 0)) || ! type -P apt-get >/dev/null; then
  echo "missing: ${missing[*]}. Debian, as root: apt-get install ${packages[*]}" >&2
  exit 1
fi

echo "==> Debian's ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=180 -q "$@" >"$log" 2>&1; }
install() { apt install --yes --no-install-recommends "${missing[@]}"; }
# Package lists that are missing or old: the second attempt comes after a look at the archive.
install || { apt update && install; } || { cat "$log" >&2; exit 1; }
