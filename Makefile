# Everything runs from .venv, which is made by itself and brought up to date when requirements.lock
# changes: with what the demo needs, or with the development tools, too.
# `make help` lists the targets; ARGS are handed on: make test ARGS="-k broker".

PYTHON ?= python3
BIN := .venv/bin
# The extras of pyproject.toml that `make demo` installs, and those that everything else does.
DEMO := embedded report
DEV := $(DEMO) k8s dev
INSTALLED := .venv/.dev
# Tools that are there stay there.
DEMO_INSTALLED := $(or $(wildcard $(INSTALLED)),.venv/.demo)
CONTAINERS := docker compose --env-file infra/.env --file infra/docker-compose.yml
UV := -m pip install --quiet --require-hashes --requirement infra/uv.txt
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
  --no-header --no-annotate --no-emit-index-url

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
export UV_SYSTEM_CERTS := true
# A uv project or environment around this one is not meant.
unexport VIRTUAL_ENV UV_PROJECT
# What Python compiles stays compiled for its next process, wherever this runs.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo check test interop lint format bench bench-dashboard screenshots benchmark-model grafana lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED)  ## create .venv with everything, the development tools included

.venv/.demo: EXTRAS := $(DEMO)
$(INSTALLED): EXTRAS := $(DEV)
# An environment is what pyproject.toml asks for, in exactly the files that requirements.lock names.
# uv installs it in a tenth of pip's time. Where only pip knows the way to an index (a mirror in
# pip.conf), pip does it, and takes the whole lock. Nothing is compiled here: the demo compiles what
# it uses, which is a minute sooner.
.venv/.demo $(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else \
	  f"{sys.executable} is Python {v.major}.{v.minor}; this project needs 3.11 or newer. " \
	  "If there is one: make PYTHON=python3.12 ...")'
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "Installing into .venv (once)"
	@$(BIN)/python $(UV)
	@$(BIN)/uv pip install --quiet --python .venv --exact --require-hashes \
	  --constraint requirements.lock --requirement pyproject.toml $(EXTRAS:%=--extra %) \
	  || $(BIN)/python -m pip install --quiet --no-deps --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --quiet --python .venv --no-deps --editable . \
	  --build-constraints requirements.lock --verify-hashes \
	  || $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@$(BIN)/uv pip check --quiet --python .venv
	@touch $@

# The suite's processes start together, and each would compile the same for itself.
COMPILED := .venv/.compiled
$(COMPILED): $(INSTALLED)
	-@$(BIN)/python -m compileall -qq -j 0 -x '/tests/|/(kubernetes|plotly|statsmodels)/' .venv/lib
	@touch $@

demo: $(DEMO_INSTALLED)  ## run the whole platform on this machine; ARGS="--help" tells more
	@$(BIN)/credit-risk demo $(ARGS)

# 5: a selection by ARGS that only one of the two has.
NONE_IS_FINE := || test $$? -eq 5

FAST := not server and not slow

check: $(INSTALLED)  ## style, types, and the fast tests, which need no server: a minute
	@$(BIN)/ruff check . && $(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy & types=$$!; \
	  $(BIN)/python -m pytest --numprocesses 4 --dist loadgroup -q -m "$(FAST)" $(ARGS); \
	  tests=$$?; wait $$types && exit $$tests

# What runs a daemon, and a browser, runs alone and last.
test: $(COMPILED)  ## run the tests
	@$(BIN)/python -m pytest --numprocesses 4 --dist loadgroup -m "not platform and not interop" $(ARGS) $(NONE_IS_FINE)
	@$(BIN)/python -m pytest -m platform $(ARGS) $(NONE_IS_FINE)

# Needs Java and Maven, or the jars where an earlier call put them (~/.cache/credit-risk).
INTEROP := interop
interop: $(INSTALLED)  ## run the end-to-end tests on Apache Kafka; INTEROP="interop and not long" as CI does
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile -m "$(INTEROP)" tests/interop $(ARGS)

lint: $(INSTALLED)  ## check style, format, types, layers and Dagster's definitions
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/dg check defs

format: $(INSTALLED)  ## put the code into the format that lint wants
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)  ## measure throughput and latency
	@$(BIN)/python -m tests.benchmarks $(ARGS)

bench-dashboard: $(INSTALLED)  ## measure the dashboard's queries, and its pages in a browser, on 10,000,000 applications
	@$(BIN)/python -m tests.benchmarks.dashboard $(ARGS)

screenshots: $(INSTALLED)  ## take the pictures in docs/images anew, of six weeks at work
	@$(BIN)/python -m tests.live.screenshots $(ARGS)

benchmark-model: $(DEMO_INSTALLED)  ## compare the rules with models on the built-in loans
	@$(BIN)/credit-risk model benchmark --sample builtin $(ARGS)

grafana: $(INSTALLED)  ## write Grafana's dashboards anew from the code in infra/grafana/
	@$(BIN)/python -m infra.grafana

.PHONY: docs env up down logs images-check
docs: $(DEMO_INSTALLED)  ## write docs/configuration.md and docs/roles.md anew
	@$(BIN)/python -m infra.configuration_reference
	@$(BIN)/python -m infra.role_reference

env:  ## write infra/.env with random secrets, unless it is there
	@$(PYTHON) infra/make_env.py

up:  ## start everything in containers; needs Docker, and `make env` once
	@$(PYTHON) infra/ports.py $$($(CONTAINERS) ps --services --status running 2>/dev/null)
	$(CONTAINERS) up --build --detach $(ARGS)
	$(CONTAINERS) ps

down:  ## stop the containers; their data stays (ARGS=--volumes deletes it)
	$(CONTAINERS) down $(ARGS)

logs:  ## follow the containers' output; ARGS="dagster-code" for one of them
	$(CONTAINERS) logs --follow --tail 100 $(ARGS)

images-check: $(INSTALLED)  ## build the images, and pass events through the containers: Docker, or Podman as root
	@$(BIN)/python -m tests.images

lock:  ## write requirements.lock anew from pyproject.toml; ARGS="--upgrade" takes newer versions
	@test -x $(BIN)/uv || { $(PYTHON) -m venv --clear .venv && $(BIN)/python $(UV); }
	@$(COMPILE) $(ARGS) $(DEV:%=--extra %) --output-file requirements.lock pyproject.toml
	@echo uv | $(COMPILE) $(ARGS) --output-file infra/uv.txt -

clean:  ## remove .venv, the caches and the demo's data
	rm -rf .venv .credit-risk .hypothesis .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
