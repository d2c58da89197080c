.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
READY := $(VENV)/.ready

.PHONY: help demo test check format bench docs dist

help:  ## show the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Scenewise needs Python 3.11 or newer: make PYTHON=python3.11')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)  ## train, test and explain on generated scenes; writes scenewise-demo/
	$(BIN)/scenewise demo --out scenewise-demo

test: $(READY)  ## run every test
	$(BIN)/python -m pytest -n auto --dist worksteal

check: $(READY)  ## ruff, ruff format and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## put the code in shape
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## measure again and write docs/bench.md; wants an idle machine
	$(BIN)/python -m bench

docs: $(READY)  ## build the documentation into site/
	$(BIN)/mkdocs build --strict

dist: $(READY)  ## build wheel and sdist into dist/
	$(BIN)/python -m build
