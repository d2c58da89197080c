.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
BASE := $(VENV)/.base
DEV := $(VENV)/.dev
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

CHECK_PYTHON = $(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Scenewise needs Python 3.11 or newer: make PYTHON=python3.11')"
LOWEST := .venv-lowest

# what an old version uses, a newer version of another library may deprecate; other warnings stay errors
OLD := $(addprefix -W ignore::,DeprecationWarning PendingDeprecationWarning FutureWarning)

.PHONY: help demo test check format bench docs dist fuzz coverage mutants audit lowest

help:  ## show the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

$(BIN)/python:
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)

$(BASE): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e .
	touch $@

$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[dev]'
	touch $@

demo: $(BASE)  ## train, test and explain on generated scenes; writes scenewise-demo/
	$(BIN)/scenewise demo --out scenewise-demo --open

test: $(DEV)  ## run every test
	$(BIN)/python -m pytest -n auto --dist worksteal

coverage: $(DEV)  ## run every test and say which lines and branches none reached
	$(BIN)/python -m pytest -n auto --dist worksteal --cov --cov-report=term-missing

mutants: $(DEV)  ## break the source in one place at a time; the tests should notice; takes hours
	$(BIN)/python -m bench.mutants

check: $(DEV)  ## ruff, ruff format and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(DEV)  ## put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV)  ## measure again and write docs/bench.md; wants an idle machine
	$(BIN)/python -m bench

fuzz: $(DEV)  ## fuzz every reader of files, 20,000 runs each; Linux and macOS
	$(INSTALL) -e '.[fuzz]'
	nice $(BIN)/python -m fuzz --runs 20000

docs: $(DEV)  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: $(DEV)  ## build wheel and sdist into dist/
	$(BIN)/python -m build

audit: $(DEV)  ## look up known vulnerabilities of pinned and lowest versions; error 2: not reachable
	$(BIN)/python -m bench.audit

lowest:  ## run every test with the lowest versions that pyproject.toml allows, in .venv-lowest
	$(CHECK_PYTHON)
	$(PYTHON) -m venv $(LOWEST)
	$(PYTHON) -m bench.lowest > $(LOWEST)/floors.txt
	$(LOWEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(LOWEST)/floors.txt -e '.[dev]'
	$(LOWEST)/bin/python -m pytest -n auto --dist worksteal $(OLD)
