# `make` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-all faults lint

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## create .venv and install the project into it

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time) ..." >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

quickstart: $(STAMP)  ## raw text to a registered model, on this machine, offline
	@$(BIN)/finetune run conf/quickstart.yaml

test: $(STAMP)  ## the test suite: offline, under five minutes
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu"

test-all: $(STAMP)  ## every test that this machine can run
	@$(BIN)/python -m pytest

faults: $(STAMP)  ## kill, unplug, fill and damage what a run stands on, with real processes (an hour)
	@$(BIN)/python -m pytest tests/faults

lint: $(STAMP)  ## style, types, import rules
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
