# Everything that people and CI run. `make` prints what there is.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
# pip is told everything here, so that a person's own pip settings do not matter; the only network needed is the package registry.
PIP_INSTALL := -m pip install -qq --disable-pip-version-check --no-input

# contracts first: the others import it while they are built and checked.
LIBS := contracts svckit eventkit answers modelfiles client testkit
SERVICES := data-ingest trainer evaluator registry embedder inference feedback gateway console
PACKAGES := $(patsubst %/pyproject.toml,%,$(wildcard $(LIBS:%=libs/%/pyproject.toml) $(SERVICES:%=services/%/pyproject.toml)))
EDITABLE := $(PACKAGES:%=-e %)
MANIFESTS := $(wildcard libs/*/pyproject.toml services/*/pyproject.toml services/*/*/pyproject.toml) constraints.txt constraints-engine.txt requirements-dev.txt

.PHONY: help setup proto proto-check fmt lint types arch test clean
help: ## Prints this list.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(VENV)/.done ## Makes the Python environments; does nothing when they are up to date.

$(VENV)/.done: $(MANIFESTS)
	@test -x $(PY) || python3.11 -m venv $(VENV)
	$(PY) $(PIP_INSTALL) -c constraints.txt editables hatchling pip setuptools
	$(PY) $(PIP_INSTALL) -c constraints.txt -r requirements-dev.txt
	$(PY) $(PIP_INSTALL) -c constraints.txt --no-build-isolation $(EDITABLE)
	@touch $@

proto: setup ## Generates libs/contracts from protos/.
	$(PY) tools/protos.py generate
