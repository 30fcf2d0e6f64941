#!/usr/bin/env bash
# Installs the Prometheus and the Alertmanager that `kb observe` and the tests run: Debian's packages, without starting or enabling their
# daemons, which would listen on all interfaces. `make system-packages` calls it, and `make test` before the tests.
#
# It installs only as root on Debian and its like. Elsewhere it says what is missing and ends with status 0: the tests that need the programs
# skip then, and say the same. When everything is there it does and says nothing.
#
# Environment:
#   KB_SKIP_SYSTEM_PACKAGES  any value: install nothing (no network, for example)
#   CI                       any value: a failed installation is a failure
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly policy=/usr/sbin/policy-rc.d
readonly mark='# Put here by system-packages.sh of KnowledgeBeast while it installs packages.'
readonly lock=/run/knowledgebeast-packages.lock
readonly lock_wait=180 # seconds that another apt may take
readonly recheck=5     # seconds between two looks at whether it has ended

has() { # programs: whether all of them are in PATH
  local name
  for name in "$@"; do type -P "$name" >/dev/null || return 1; done
}

missing() { # the packages whose programs are not there, one a line
  has prometheus promtool || echo prometheus
  { has amtool && { has alertmanager || has prometheus-alertmanager; }; } || echo prometheus-alertmanager
}

leave() { # why nothing is installed
  printf 'not installed: %s (%s). Tests that need them skip. Debian: apt-get install %s; elsewhere: Prometheus 2.42 or newer with promtool, Alertmanager 0.25 or newer with amtool, in PATH\n' \
    "${packages[*]}" "$1" "${packages[*]}" >&2
  exit 0
}

take_turns() { # of all runs on this machine, one at a time installs, or looks at what another has left
  exec 9>"$lock"
  flock --timeout "$lock_wait" 9 || { echo "another installation has taken more than $lock_wait s" >&2; exit 1; }
}

remove_ours() { ! grep -qsxF "$mark" "$policy" || rm "$policy"; }

# A run that was killed has left its policy behind, which would keep every daemon of this machine from starting for good.
if ((EUID == 0)) && grep -qsxF "$mark" "$policy"; then
  take_turns
  remove_ours
fi

mapfile -t packages < <(missing)
((${#packages[@]} > 0)) || exit 0
[[ -z ${KB_SKIP_SYSTEM_PACKAGES:-} ]] || leave "KB_SKIP_SYSTEM_PACKAGES is set"
if ! has apt-get || ! grep -qE '^ID(_LIKE)?=.*debian' /etc/os-release 2>/dev/null; then leave "this is not Debian"; fi
((EUID == 0)) || leave "not root"

# Two `make test` at once: the second waits, and finds them installed.
take_turns
mapfile -t packages < <(missing)
((${#packages[@]} > 0)) || exit 0

scratch=$(mktemp -d)
trap 'remove_ours; rm -rf "$scratch"' EXIT
trap 'exit 130' INT TERM

# A policy that is there is the machine's owner's: it stays, and if it would start the daemons, nothing is installed.
if [[ -e $policy || -L $policy ]]; then
  for package in "${packages[@]}"; do
    status=0
    "$policy" "$package" start >/dev/null 2>&1 || status=$?
    ((status == 101)) || leave "$policy of this machine lets daemons start, and these would listen on all interfaces"
  done
else
  # noclobber: one that appears at this moment is not overwritten.
  (set -o noclobber && printf '#!/bin/sh\n%s\nexit 101\n' "$mark" >"$policy") 2>/dev/null || { echo "another program has just made $policy: try again" >&2; exit 1; }
  chmod 755 "$policy"
fi

apt() { # arguments of apt-get: waits while another apt holds a lock; the output of the last attempt is in $scratch/log
  local deadline=$((SECONDS + lock_wait))
  until DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout="$lock_wait" -q "$@" >"$scratch/log" 2>&1 9>&-; do
    grep -q 'Could not get lock' "$scratch/log" && ((SECONDS < deadline)) || return 1
    sleep "$recheck"
  done
}

install() { apt install --yes --no-install-recommends "${packages[@]}"; }

echo "==> Debian's ${packages[*]}, without starting them (what runs them: kb observe, and the tests)"
# Lists that are missing or old: the second attempt comes after a look at the archive.
if ! install; then
  echo "    reading the package lists first"
  if ! { apt update && install; }; then
    cat "$scratch/log" >&2
    # Where nobody looks at what was skipped, a network that fails once must not pass for a test that has passed.
    [[ -z ${CI:-} ]] || { echo "cannot install ${packages[*]}; KB_SKIP_SYSTEM_PACKAGES=1 goes on without" >&2; exit 1; }
    leave "apt-get failed"
  fi
fi

# Nor at the next start of the machine: what was installed here is a tool, not this machine's monitoring.
for package in "${packages[@]}"; do
  if command -v systemctl >/dev/null; then systemctl disable "$package" >"$scratch/log" 2>&1 || cat "$scratch/log" >&2
  elif command -v update-rc.d >/dev/null; then update-rc.d "$package" disable >"$scratch/log" 2>&1 || cat "$scratch/log" >&2; fi
done
echo "    installed; their services are neither running nor enabled. To remove them: apt-get purge ${packages[*]}"
