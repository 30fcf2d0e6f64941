#!/usr/bin/env bash
# Starts the built images as a cluster would (another user than root, no capabilities, a root that cannot be written) and without any network but
# their own loopback, and looks at what they answer and what is in them: `make images-check`, after `make images`. Needs podman. There is no ChromaDB:
# searches answer without it.
#
# Arguments go to `podman run`, for example `--ulimit host`. What it starts it removes. The images' health command needs systemd under podman, so
# it is run by hand.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

version=$(sed -n 's/^VERSION: Final = "\(.*\)"$/\1/p' shared/version.py)
readonly version prefix=${REGISTRY:-}knowledgebeast start_limit=60
readonly strict=(--no-healthcheck --read-only --read-only-tmpfs=false --tmpfs /tmp --cap-drop all --security-opt no-new-privileges)
# A name that no other run has.
readonly indexer=kb-check-$$-indexer query=kb-check-$$-query
clean_up() { # one after the other: the second one's network is the first one's
  for name in "$query" "$indexer"; do
    podman rm --force --ignore --time 5 --volumes "$name" >/dev/null || echo "still there: $name" >&2
  done
}
trap clean_up EXIT
trap 'exit 130' INT TERM

die() {
  echo "images-check: $*" >&2
  exit 1
}

now() { date +%s%3N; }

start() { # container, image, health port, network; says how long it took until it was ready
  local name=$1 image=$2 port=$3 network=$4 began
  shift 4
  began=$(now)
  podman run --detach --name "$name" --network "$network" "${strict[@]}" "$@" "$image" >/dev/null
  until podman exec "$name" python /app/probe.py "$port" >/dev/null 2>&1; do
    [[ $(podman inspect --format '{{.State.Running}}' "$name") == true ]] || { podman logs "$name" >&2; die "$name has ended"; }
    (($(now) - began < start_limit * 1000)) || { podman logs "$name" >&2; die "$name is not ready after $start_limit s"; }
  done
  echo "$image: ready after $(($(now) - began)) ms, $(podman inspect --format '{{.Size}}' --type image "$image" | awk '{ printf "%.0f MB", $1 / 1000000 }')"
}

inside() { # container, program
  podman exec "$1" python -c "$2"
}

kb() { podman exec "$indexer" python -m services.cli "$@"; }

start "$indexer" "$prefix/indexer:$version" 50061 none "$@"
# In the network of the first, where each finds the other on the loopback address.
start "$query" "$prefix/query:$version" 50062 "container:$indexer" "$@"

for container in "$indexer" "$query"; do
  inside "$container" '
import importlib.util, os, pathlib, shutil
assert os.getuid() == os.getgid() == 10001, os.getuid()
for name in ("torch", "transformers", "sentence_transformers", "chromadb", "huggingface_hub", "pip", "setuptools"):
    assert importlib.util.find_spec(name) is None, name
for name in ("gcc", "cc", "g++", "ld", "make"):
    assert shutil.which(name) is None, name
for root in ("/opt", "/app", "/models", "/usr"):
    assert not list(pathlib.Path(root).rglob("*.safetensors")), root
for folder in ("/", "/app", "/models", "/opt/venv", "/usr/bin"):
    try:
        pathlib.Path(folder, "written").touch()
    except OSError:
        continue
    raise AssertionError(f"{folder} can be written")
status = dict(line.split(":", 1) for line in pathlib.Path("/proc/1/status").read_text().splitlines())
assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0, status["CapEff"]
assert status["NoNewPrivs"].strip() == "1"
'
done
echo "no torch, compiler or original weights inside, no pip beside the packages; user 10001, no capabilities, a root that cannot be written"

inside "$indexer" 'open("/tmp/tides.md", "w").write("# Tides\n\nThe moon pulls the sea, and the water rises twice a day.\n")'
kb ingest /tmp/tides.md --project check --create >/dev/null
finds() { # mode, words: until the replica has it, and for `vector` until the model has made its vector
  local began answer=
  began=$(now)
  until answer=$(kb search "$2" --project check --mode "$1" --json) && [[ $answer == *"the water rises twice a day"* ]]; do
    (($(now) - began < start_limit * 1000)) || die "search in $1 mode did not find the document: $answer"
  done
  echo "a search in $1 mode finds the document, without ChromaDB"
}
finds keyword "moon and water"
# None of these words is in the text: so it is the model inside that finds it, over the replica's vectors.
finds vector "lunar gravity lifts an ocean"

# `kb` imports more than the services do.
for container in "$indexer" "$query"; do
  inside "$container" '
import importlib, pkgutil, services, shared
development = {"shared.gen.generate", "shared.embedding.export", "shared.embedding.conversion"}
measuring = ("services.cli.bench", "services.cli.chaos", "services.cli.quality", "services.cli.observe")
found = [module.name for package in (services, shared) for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
names = [name for name in found if name not in development and not name.startswith(measuring) and not name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(f"{len(names)} modules imported")
'
done

for container in "$query" "$indexer"; do
  began=$(now)
  podman stop --time 30 "$container" >/dev/null
  status=$(podman inspect --format '{{.State.ExitCode}}' "$container")
  [[ $status == 0 ]] || die "$container ended with status $status"
  echo "$container: stopped after $(($(now) - began)) ms with status 0"
done
