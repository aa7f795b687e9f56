# Every target, one sentence each: `make help`.
SHELL := /bin/sh
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DATA ?= .nullspend
ARGS ?=
STAMP := $(VENV)/.installed
STAMP_DEV := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help install install-dev run demo test check fmt lint types imports migrate lock bench clean

help: ## List every target with one sentence.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "NullSpend needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

$(STAMP_DEV): requirements-dev.lock $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

install: $(STAMP) ## Install the product and its locked dependencies into .venv.

install-dev: $(STAMP_DEV) ## Install what the tests and checks need as well.

run: install ## Start the whole product on embedded PostgreSQL and Valkey, and print a usable key.
	$(BIN)/nullspend up --data $(DATA) $(ARGS)

demo: install ## Run the product against a bundled scripted provider with a day of traffic.
	$(BIN)/nullspend demo $(ARGS)

test: install-dev ## Run every test suite on real PostgreSQL and Valkey.
	$(BIN)/python -m pytest $(ARGS)

check: install-dev lint types imports ## Lint, type-check and verify the import rules.

fmt: install-dev ## Format the code and apply the safe lint fixes.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: install-dev ## Check formatting and lint rules.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install-dev ## Type-check strictly.
	$(BIN)/mypy

imports: install-dev ## Verify who may import whom.
	$(BIN)/lint-imports

migrate: install ## Apply the database migrations to NULLSPEND_DATABASE_URL.
	$(BIN)/alembic upgrade head

lock: install-dev ## Pin the newest allowed dependencies, with hashes.
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --upgrade -q pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header -q --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock

bench: install-dev ## Measure a data-plane worker against nginx pass-through in the same rounds.
	$(BIN)/python -m bench $(ARGS)

clean: ## Remove what was installed and built (not the data directory).
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
