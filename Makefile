# `make demo` and `make test` each work as the first command on a fresh machine with python3, git and make.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
INSTALLED := .venv/installed
PIP := $(BIN)/python -m pip --disable-pip-version-check install -qq --constraint constraints.txt

# Runs a command while holding a lock on this file: of two set-ups at once, one waits and then finds the work done.
LOCKED := $(PYTHON) -c 'import fcntl, subprocess, sys; lock = open("Makefile"); \
	fcntl.flock(lock, fcntl.LOCK_EX); sys.exit(subprocess.call(sys.argv[1:]))'

.PHONY: help setup demo test check wheel
.DEFAULT_GOAL := help

help:
	@echo 'make setup   create .venv and install tuner with its test extras (PYTHON=python3.12 picks a Python)'
	@echo 'make demo    train on the bundled base and show pictures before and after'
	@echo 'make test    run the tests (ARGS="tests/data -m slow" picks some)'
	@echo 'make check   lint, formatting, types'
	@echo 'make wheel   build dist/tuner-*.whl and the source archive'

setup: $(INSTALLED)
	@:

$(INSTALLED): pyproject.toml constraints.txt
	@$(LOCKED) sh -euc ' \
	if test -e $@ && test -z "$$(find $^ -newer $@)"; then exit 0; fi; \
	if ! $(PYTHON) -c "import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))"; then \
		echo "tuner needs Python 3.11, 3.12 or 3.13; $(PYTHON) is another: name one with make PYTHON=..." >&2; exit 2; fi; \
	echo "Setting up .venv; the first time takes some minutes."; \
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv; \
	touch .venv/installing; \
	$(PIP) hatchling; \
	$(PIP) --no-build-isolation --editable ".[test]"; \
	mv .venv/installing $@'

demo: setup
	@$(BIN)/tuner demo

test: setup
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal $(ARGS)

check: setup
	@$(BIN)/ruff check --quiet --output-format concise .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy

wheel: setup
	@$(BIN)/python -m build --no-isolation .
