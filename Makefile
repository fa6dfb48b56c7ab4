# Everything here needs Python 3.11 or newer and make, nothing else; it works in its own .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast lint format docs site bench bench-quick clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /	/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "ckmigrate needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test,lint]'
	@touch $(STAMP)

setup: $(STAMP) ## Make .venv with the package and its development tools

demo: $(STAMP) ## Upgrade the example's 1.0 checkpoint, compare accuracies, train on
	$(BIN)/python -m examples.digits.demo

test: $(STAMP) ## Run every test, the slow sweeps included
	$(BIN)/python -m pytest -n 2

test-fast: $(STAMP) ## Run the tests without the slow sweeps
	$(BIN)/python -m pytest -n 2 -m 'not slow'

lint: $(STAMP) ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## Write the generated pages of docs/
	$(BIN)/python docs/make_cookbook.py
	$(BIN)/python docs/make_commands.py
	$(BIN)/python docs/make_errors.py
	$(BIN)/python docs/make_operations.py

site: $(STAMP) ## Build the site of docs/ into site/; a broken link is an error
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -n -q -b html docs site

bench: $(STAMP) ## Measure against cp and what people do today, into benchmarks/RESULTS.md; half an hour
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python -m benchmarks --output benchmarks/RESULTS.md

bench-quick: $(STAMP) ## Run every benchmark once on tiny files: a try, not a measurement
	$(BIN)/python -m benchmarks --quick

clean: ## Remove .venv and caches
	rm -rf $(VENV) out site .pytest_cache .mypy_cache .ruff_cache .hypothesis
