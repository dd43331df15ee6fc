# `make` lists the targets. Everything happens in .venv, which `setup` makes and keeps up to date.

PYTHON ?= $(or $(shell for p in python3.11 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done),python3)
BIN := .venv/bin

.PHONY: help setup quickstart test test-fast check docs fmt clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' Makefile | sed 's/:.*##/\t/' | expand -t 14
	@echo 'ARGS="..." goes to quickstart (key=value) and test (options of pytest).'

setup: .venv/.ready  ## make .venv, with the versions of constraints.txt

# pip's own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL ...) hold, so they choose where torch comes from: its build
# for CPU is a tenth of the size.
.venv/.ready: pyproject.toml constraints.txt
	@$(BIN)/pip --version >/dev/null 2>&1 || $(MAKE) --no-print-directory .venv
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

# Only where there is no environment that works: a second interpreter in an old one would break it.
.PHONY: .venv
.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "phf needs Python 3.11 or newer: apt-get install python3.11, or make PYTHON=/path/to/python"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
		|| { echo "$(PYTHON) cannot make virtual environments: apt-get install python3.11-venv"; exit 1; }
	$(PYTHON) -m venv --clear .venv

quickstart: setup  ## the whole way on an embedded corpus: MLE against conditional training
	$(BIN)/phf quickstart $(ARGS)

test: setup  ## run the tests
	$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

test-fast: setup  ## run the tests that take a moment each, in under two minutes
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow" $(ARGS)

# The packages and tests by name: what a user makes here (runs/, data/, a script) is not ours to check.
SOURCES := phf objectives scorers tests benchmarks docs

check: setup  ## lint, format, types, spelling
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/codespell $(SOURCES) configs slurm README.md CHANGELOG.md CONTRIBUTING.md

docs: setup  ## build the documentation in docs/_build/html, without warnings
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

fmt: setup  ## format, and fix what ruff can fix
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

clean:  ## remove .venv and caches (not runs/ and data/)
	rm -rf .venv build dist docs/_build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +
