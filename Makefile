# `make help` lists the targets. Every target sets up .venv first; that is a matter of milliseconds once it is done.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
# Tools find each other here: protoc its plugins, tests grpcurl and chroma.
export PATH := $(CURDIR)/$(BIN):$(PATH)
PYTHON_CODE := shared services tests deployments
GENERATED := shared/gen/knowledgebeast
# More arguments for pytest, for example `make test ARGS="-k breaker -x"`.
ARGS ?=
# Arguments for pip when it installs torch alone, for example `--index-url <PyTorch's index of CPU builds>`.
PIP_TORCH_ARGS ?=
export PIP_TORCH_ARGS PYTHON

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- use ------------------------------------------------------------------------------------------------------------------------------------

.PHONY: demo
demo: setup ## show the whole thing at work, a dead ChromaDB included
	@$(BIN)/kb demo

.PHONY: up
up: setup ## run ChromaDB, the indexer and the query service until Ctrl-C
	@$(BIN)/kb up

.PHONY: observe
observe: setup system-packages ## run Prometheus and Alertmanager beside a running `make up`, until Ctrl-C
	@$(BIN)/kb observe $(ARGS)

.PHONY: setup
setup: ## make .venv with everything in it, and the exported model; does nothing when nothing changed
	@deployments/setup/setup.sh

# --- develop --------------------------------------------------------------------------------------------------------------------------------

.PHONY: observe-check
observe-check: setup system-packages ## does everything that dashboard, alerts and rules ask return data? a stack of its own, under load (2 minutes)
	@$(BIN)/kb observe --check $(ARGS)

.PHONY: system-packages
system-packages: ## install Prometheus and Alertmanager, as root on Debian; elsewhere say what to install
	@deployments/setup/system-packages.sh

.PHONY: test
test: setup system-packages ## run the tests; ARGS goes to pytest
	@$(BIN)/pytest $(ARGS)

.PHONY: quality
quality: setup ## measure how good the answers are; ARGS="--datasets DIR --output docs/quality" for more collections and for the document
	@$(BIN)/kb quality $(ARGS)

.PHONY: bench
bench: setup ## measure speed and memory on 10k and 100k real chunks; ARGS goes to `kb bench`, for example ARGS="--size 10k --only search"
	@$(BIN)/kb bench $(ARGS)

.PHONY: bench-observability
bench-observability: setup ## measure what traces, metrics and logs cost a search: all on, 1 % of traces, all off, in turns (4 minutes)
	@$(BIN)/kb bench --only overhead --size 10k --document docs/observability.md $(ARGS)

.PHONY: chaos
chaos: setup ## break things on purpose under load and check the promises; ARGS goes to `kb chaos`, for example ARGS="--only 1 --only 2"
	@$(BIN)/kb chaos $(ARGS)

.PHONY: images
images: setup ## build the images of both services (docker, podman or buildah); ARGS goes to the builder, settings: deployments/docker/build.sh
	@$(BIN)/hadolint deployments/docker/Dockerfile
	@deployments/docker/build.sh $(ARGS)

.PHONY: images-check
images-check: ## start the built images without network, read-only and as nobody, and look at what is in them (podman; ARGS goes to it)
	@deployments/docker/check.sh $(ARGS)

.PHONY: k8s-check
k8s-check: setup ## would Kubernetes take the manifests? the newest three minor versions
	@$(BIN)/python -m deployments.kubernetes

# One target a tool, so that what failed can be run again alone. The last line of a failed run names it: "make: *** [… check-types] Error 1".
CHECKS := check-format check-lint check-types check-imports check-protos check-generated check-breaking check-dead-code

.PHONY: check
check: setup ## format, lint, types, imports, protos, generated code, dead code
	@for check in $(CHECKS); do echo "==> $$check"; $(MAKE) --silent $$check; done

.PHONY: $(CHECKS)
check-format: ## is the code formatted? `make format` puts it right
	@$(BIN)/ruff format --check . || { echo "run: make format"; exit 1; }

check-lint: ## ruff's rules
	@$(BIN)/ruff check . || { echo "run: make format (it also fixes what can be fixed by itself), then: make check-lint"; exit 1; }

check-types: ## mypy, strict
	@$(BIN)/mypy $(PYTHON_CODE) || { echo "run: make check-types"; exit 1; }

check-imports: ## who may import whom (the contracts stand in pyproject.toml)
	@$(BIN)/lint-imports || { echo "run: make check-imports"; exit 1; }

check-protos: ## buf: style and format of the protos
	@$(BIN)/buf lint || { echo "run: make check-protos"; exit 1; }
	@$(BIN)/buf format --diff --exit-code protos || { echo "run: make format"; exit 1; }

check-generated: ## are stubs, documents and the dashboard those of the protos, the settings and the code? `make gen` writes them
	@$(BIN)/python -m shared.gen.generate --check || { echo "run: make gen"; exit 1; }
	@$(BIN)/python docs/generate.py --check || { echo "run: make gen"; exit 1; }
	@$(BIN)/python -m deployments.grafana.source --check || { echo "run: make gen"; exit 1; }
	@$(BIN)/python -m deployments.kubernetes.rules --check || { echo "run: make gen"; exit 1; }

# Until something is released there is nobody to break: the check begins with the first tag v*.
check-breaking: ## buf: do the protos break clients of the last release?
	@if tag=$$(git describe --tags --abbrev=0 --match 'v*' 2>/dev/null); then \
	  $(BIN)/buf breaking --against ".git#tag=$$tag" || { echo "clients of $$tag would break; run: make check-breaking"; exit 1; }; \
	else echo "no release yet, nothing to compare with"; fi

# Parameters that a protocol of Python asks for, used or not: those of __exit__ and __aexit__.
PROTOCOL_NAMES := exc_type,exc_value,exc,traceback
check-dead-code: ## vulture: code that nothing uses
	@$(BIN)/vulture $(PYTHON_CODE) --exclude $(GENERATED) --min-confidence 80 --ignore-names $(PROTOCOL_NAMES) || { echo "run: make check-dead-code"; exit 1; }

.PHONY: check-runtime
check-runtime: setup ## is the run-time lock enough to serve? installs it into a scratch environment (a minute)
	@deployments/setup/check_runtime.sh

.PHONY: format
format: setup ## format code and protos, fix what ruff can fix
	@$(BIN)/ruff check --fix --exit-zero --quiet .
	@$(BIN)/ruff format .
	@$(BIN)/buf format --write protos

.PHONY: gen
gen: setup ## generate shared/gen from the protos, docs/configuration.md from the settings, docs/metrics.md from the metrics, the dashboard from its code
	@$(BIN)/python -m shared.gen.generate
	@$(BIN)/python docs/generate.py
	@$(BIN)/python -m deployments.grafana.source
	@$(BIN)/python -m deployments.kubernetes.rules

.PHONY: lock
lock: setup ## resolve pyproject.toml into the locks; ARGS="--upgrade" takes newer versions
	@deployments/setup/lock.sh $(ARGS)

# --- clean ----------------------------------------------------------------------------------------------------------------------------------

.PHONY: clean
clean: ## remove caches and build products; keep .venv, models and data
	@rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find shared services tests deployments -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## remove everything that set-up made: .venv and the exported models; data in .kb stays
	@rm -rf .venv .kb/models .kb/setup.log .kb/setup.lock *.egg-info
