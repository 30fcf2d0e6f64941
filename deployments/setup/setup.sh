#!/usr/bin/env bash
# Makes .venv from nothing: the locked packages, torch, this project (`.venv/bin/kb`) and the exported model. `make setup` calls it.
#
# Each step is done once for its inputs: their hash is kept in .venv/.setup/, written only after the step succeeded. So a second run does
# nothing, a changed input repeats its step, and an interrupted run goes on where it stopped. What the tools print goes to .kb/setup.log
# and is shown only when a step fails.
#
# Environment:
#   PYTHON          interpreter for .venv (default: the first Python 3.11 found)
#   PIP_TORCH_ARGS  arguments for the installation of torch alone, for example `--index-url <PyTorch's index of CPU builds>`
#   PIP_…           pip's own settings are left as they are
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

readonly venv=.venv
readonly stamps=$venv/.setup
readonly log=.kb/setup.log
readonly lock=deployments/setup/requirements/dev.lock
torch=$(sed -n 's/^ *"\(torch==[0-9.]*\)".*/\1/p' pyproject.toml)
readonly torch
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

mkdir -p .kb
exec 9>.kb/setup.lock
flock --nonblock 9 || { echo "set-up: waiting for another set-up in this folder" && flock 9; }

die() {
  printf 'set-up failed: %s\n' "$*" >&2
  exit 1
}

trap 'printf "\nset-up interrupted: the next one goes on from here\n" >&2; exit 130' INT TERM

show_log() { # all that was printed, but for lines that say nothing about a failure
  grep -v -e '^Requirement already satisfied' -e 'is ignored: it is neither a file nor a directory' "$log" >&2 || true
}

done_for() { # step, hash of its inputs
  [[ -f $stamps/$1 && $(<"$stamps/$1") == "$2" ]]
}

mark() { # step, hash of its inputs; the rename makes the stamp appear whole or not at all
  mkdir -p "$stamps"
  printf '%s' "$2" >"$stamps/.$1.new"
  mv "$stamps/.$1.new" "$stamps/$1"
}

hash_of() { # files and words: files count by their content
  for input in "$@"; do
    if [[ -f $input ]]; then cat "$input"; else printf '%s\n' "$input"; fi
  done | sha256sum | cut -d' ' -f1
}

quietly() { # command: its output is shown only if it fails
  local status=0
  # Not the set-up's lock: a process that a command leaves behind must not hold it.
  "$@" >"$log" 2>&1 9>&- || status=$?
  if ((status != 0)); then
    show_log
    die "exit status $status of: $*"
  fi
}

progress() { # total: reads pip's output, keeps it in the log, prints a line now and then (bash, because Debian's awk buffers its input)
  local total=$1 seen=0 line
  while IFS= read -r line; do
    printf '%s\n' "$line" >&3
    case $line in
      Collecting\ *) if ((++seen % 25 == 0)); then echo "    $seen of $total packages found"; fi ;;
      *Downloading\ *) if [[ ${line##*\(} =~ ^[0-9]{3,}\.[0-9]\ MB ]]; then echo "    downloading ${line#*Downloading }"; fi ;;
      Installing\ collected\ packages:*) echo "    installing" ;;
    esac
  done 3>"$log"
}

with_progress() { # number of packages, pip's arguments
  local total=$1
  shift
  if ! "$venv/bin/pip" install --progress-bar off "$@" 2>&1 9>&- | progress "$total"; then
    show_log
    die "pip install $*"
  fi
}

is_supported() { "$1" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; }

make_venv() {
  local python=''
  for candidate in ${PYTHON:-python3.11 python3 /usr/bin/python3.11}; do
    if is_supported "$candidate"; then python=$candidate && break; fi
  done
  [[ -n $python ]] || die "Python 3.11 is needed (Debian 12: apt-get install python3-venv; elsewhere name it: make setup PYTHON=/path/to/python3.11)"
  echo "==> .venv with $("$python" --version)"
  if ! "$python" -m venv --clear "$venv" >"$log" 2>&1; then
    show_log
    die "cannot make .venv (Debian: apt-get install python3-venv)"
  fi
}

# A virtual environment does not survive being moved or losing its interpreter; one that works and was made by hand is kept.
where=$(hash_of "$PWD")
if ! done_for venv "$where"; then
  if [[ -d $stamps ]] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then make_venv; fi
  mark venv "$where"
elif ! "$venv/bin/python" -c '' 2>/dev/null; then
  make_venv
  mark venv "$where"
fi

inputs=$(hash_of "$lock")
if ! done_for packages "$inputs"; then
  count=$(grep -c '==' "$lock")
  echo "==> $count locked packages, checked against their hashes"
  with_progress "$count" --no-deps --require-hashes --requirement "$lock"
  mark packages "$inputs"
fi

# After the lock, which has everything that torch needs: so this step brings torch, and CUDA libraries only if the machine's pip picks a CUDA build.
inputs=$(hash_of "$torch")
if ! done_for torch "$inputs"; then
  echo "==> $torch, by itself and with this machine's own pip settings"
  # shellcheck disable=SC2086 # several arguments are meant
  with_progress 1 ${PIP_TORCH_ARGS:-} "$torch"
  if "$venv/bin/python" -c 'import sys; from importlib.metadata import distributions; sys.exit(not any(d.name.startswith("nvidia-") for d in distributions()))'; then
    echo "    this is a CUDA build, several GB larger than needed; README.md says how to pick the CPU build"
  fi
  mark torch "$inputs"
fi

inputs=$(hash_of pyproject.toml)
if ! done_for project "$inputs" || [[ ! -x $venv/bin/kb ]]; then
  echo "==> knowledgebeast itself: $venv/bin/kb"
  quietly "$venv/bin/pip" install --no-deps --no-build-isolation --editable .
  mark project "$inputs"
fi

# The export itself is cached by the hash of the model's weights; it is cheap to ask again when its code changed.
model_dir=${KB_MODEL_DIR:-.kb/models}
inputs=$(hash_of "$lock" "$torch" "$model_dir" shared/embedding/*.py)
if ! done_for model "$inputs" || ! compgen -G "$model_dir/*/manifest.json" >/dev/null; then
  echo "==> the embedding model, in $model_dir (exporting it takes about half a minute, once)"
  quietly "$venv/bin/python" -m shared.embedding.export --model-dir "$model_dir"
  mark model "$inputs"
fi
