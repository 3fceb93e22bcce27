# Everything is done in .venv, which the first target makes.
PYTHON ?= python3
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: run test check audit chaos setup

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

chaos: setup ## a small study under every kind of fault for two minutes, compared with a calm one
	$(BIN)/python -m benchmarks.chaos --minutes 2 --rows 2 --folds 2 --epochs 3

setup: .venv/dev-installed

.venv/run-installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) -e .
	touch $@

.venv/dev-installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(PIP_INSTALL) -e ".[dev]"
	touch $@
