# Everything is done in .venv, which the first target makes.
PYTHON ?= python3
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test check audit setup

run: .venv/run-installed ## the paper's study on the embedded city, then its tables and figures
	$(BIN)/python -m study.run --folds 3
	$(BIN)/python -m study.analyze

test: setup ## all tests, in two processes; those that start a Ray share one of them
	$(BIN)/python -m pytest -n 2 --dist loadgroup

check: setup ## lint, format, types, directions of import, unsafe calls
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive cityseg study benchmarks

audit: setup ## known vulnerabilities of what is installed
	$(BIN)/python .ci/audit.py

setup: .venv/dev-installed

.venv/run-installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) -e .
	touch $@

.venv/dev-installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) -e ".[dev]"
	touch $@
