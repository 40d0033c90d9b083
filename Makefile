# The one entry: `make help` lists the targets. Each does all of its own set-up, system packages included when run as root.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= python3
PIP := $(BIN)/python -m pip -qq --no-input --disable-pip-version-check
NEED := sh deploy/debian-packages.sh
# Dots without file names, and a last line with the counts. A suite that hangs still ends with its counts, before CI gives up.
PYTEST := $(BIN)/pytest --no-header -o verbosity_test_cases=-1 --session-timeout=840 --durations=5 --durations-min=1
# No host and no path of whoever compiled them. Pins stay as they are unless UPGRADE=1.
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
	--annotation-style line --custom-compile-command 'make requirements' $(if $(UPGRADE),--upgrade)

export PYTHON
export PATH := $(PATH):/usr/sbin:/sbin

# The stamps say what is done, so that a set-up with nothing to do costs nothing. The first one's name holds the place of this
# checkout: an environment that was copied together with its tree would run the code of the original.
HERE := $(firstword $(shell pwd -P | cksum))
MADE := $(VENV)/made-in-$(HERE)
PACKAGES := $(VENV)/packages-installed
PROJECT := $(VENV)/project-installed
# The JavaScript clients that tests drive. npm itself writes this file, so that it is gone when they are.
JS := tests/clients/node
JS_INSTALLED := $(JS)/node_modules/.package-lock.json

.DEFAULT_GOAL := help
.PHONY: help setup demo test quick check format bench docs requirements clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile

setup: $(PROJECT) ## make .venv with everything in it; the targets below do this first
	@:

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
	"Headrace needs Python 3.11 or newer, and $(PYTHON) is not: name one, as in \`make setup PYTHON=python3.12\`" >&2; exit 1; }
	@$(NEED) venv
	@echo 'Setting up $(VENV), once'
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# uv takes 10 s where pip takes 40. It does not read pip's configuration, so where only a mirror can be reached pip does it all.
$(PACKAGES): $(MADE) requirements/uv.txt requirements/dev.txt
	@{ $(PIP) install --require-hashes -r requirements/uv.txt && \
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.txt; } 2>/dev/null || \
	$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

$(PROJECT): $(PACKAGES) pyproject.toml src/headrace/__init__.py
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(JS_INSTALLED): $(JS)/package.json $(JS)/package-lock.json
	@$(NEED) node
	@echo 'Installing the JavaScript clients, once'
	@cd $(JS) && npm ci --prefer-offline --no-audit --no-fund --loglevel=error >/dev/null
	@touch $@

demo: setup ## the relay, a simulated provider and nginx, with what to look at
	@$(NEED) nginx
	@$(BIN)/headrace demo

test: setup $(JS_INSTALLED) ## every test, real servers and the clients that people use included
	@$(NEED) nginx libgomp cc node
	@$(PYTEST) $(ARGS)

quick: setup ## the tests that need no server
	@$(PYTEST) -m 'not real' $(ARGS)

check: setup ## format, lint, types, import rules
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo

format: setup ## format, and fix what lint can fix
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format .

bench: setup ## measure against nginx on this machine
	@$(NEED) nginx cc
	@$(BIN)/python -m bench $(ARGS)

docs: setup ## measure anew what stands in docs/: the pictures (needs chromium) and benchmarks.md
	@$(NEED) nginx cc
	@$(BIN)/headrace prove --images docs/images
	@$(BIN)/python -m bench --write-docs

requirements: setup ## compile requirements/ from pyproject.toml; UPGRADE=1 takes newer versions
	@$(COMPILE) pyproject.toml --extra server --group dev -o requirements/dev.txt
	@$(COMPILE) pyproject.toml --extra server -c requirements/dev.txt -o requirements/server.txt
	@echo uv | $(COMPILE) - --no-annotate -c requirements/dev.txt -o requirements/uv.txt

clean: ## remove everything that make made, the environment too
	@rm -rf $(VENV) $(JS)/node_modules .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis dist build
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
