# `make help` lists the targets. The first one that needs .venv creates it; VENV= and PYTHON= choose others.

VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && exit; done; echo python3)
ARGS ?=
BENCHMARKS ?= engine accuracy determinism kernels steps pacing service ceiling gateway queue scripts webhooks
PEERS ?= vllm openvino llamacpp
MINUTES ?= 5
CHAOS ?=
HOSTILE ?=
REDIS ?=
DIST ?= dist

# The scripts, dead letters, callbacks, TLS.
TLS_TESTS := test_jobs_run_over_tls test_a_client_over_tls_ends_its_connections_however_slow_the_server_is_to_agree
ON_A_SERVER := tests/schemas tests/producers/test_dead.py tests/workers/callbacks \
	$(TLS_TESTS:%=tests/integration/test_topologies.py::%)

INSTALLED := $(VENV)/.installed
RUN := $(if $(REDIS),tools/with_redis $(REDIS)) $(VENV)/bin/python -m
PYTEST := $(RUN) pytest

.DEFAULT_GOAL := help
.PHONY: help demo up install test check chaos servers on_a_server bench peers clients smollm2 lint types format references build clean

help:  ## list the targets
	@grep -E '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9]+):.*## /  make \1\t/' | expand -t 18

demo: $(INSTALLED)  ## start everything, run jobs, kill a worker and a gateway, show that nothing was lost (a minute)
	$(VENV)/bin/headrace demo

up: $(INSTALLED)  ## keep Redis and a worker with the built-in model running until Ctrl-C
	$(VENV)/bin/headrace up

install: $(INSTALLED)  ## create .venv with the project, its extras and the development tools

$(INSTALLED): pyproject.toml constraints-cpu.txt tools/install
	tools/install $(VENV) $(PYTHON)
	@touch $@

test: $(INSTALLED)  ## the test suite, without what is slow; one plain run of pytest with ARGS="path -k name" (REDIS=server)
ifeq ($(strip $(ARGS)),)
	@tools/test_suite $(PYTEST)
else
	$(PYTEST) -m "not slow" $(ARGS)
endif

check: lint types $(INSTALLED)  ## lint, types, and the tests of what differs from main
	@changed=$$($(VENV)/bin/python tools/changed_tests.py) && { [ -z "$$changed" ] || $(PYTEST) -m "not slow" $$changed $(ARGS); }

chaos: $(INSTALLED)  ## the slow tests, a storm of faults, one of hostile tenants (MINUTES=25, REDIS=server)
	$(PYTEST) -m slow -n 2 $(ARGS)
	$(RUN) tests.chaos --minutes $(MINUTES) $(CHAOS)
	$(RUN) tests.chaos --hostile --minutes $(MINUTES) $(HOSTILE)

servers: $(INSTALLED)  ## what may differ between servers, on every Redis and Valkey that is found (SERVERS="paths")
	VENV=$(VENV) SERVERS="$(SERVERS)" tools/each_redis $(MAKE) --no-print-directory on_a_server

on_a_server:
	$(PYTEST) -n 2 --dist worksteal -m "not slow" $(ON_A_SERVER) --ignore tests/workers/callbacks/webhooks $(ARGS)
	$(RUN) tests.chaos --minutes 0.25 $(CHAOS)

bench: $(INSTALLED)  ## measure; prints ratios within one run (BENCHMARKS="engine queue")
	@for name in $(BENCHMARKS); do echo "== $$name"; $(RUN) benchmarks.$$name || exit; done

peers:  ## install the engines to measure against, each into .peers/ (PEERS="vllm openvino llamacpp")
	benchmarks/peers/install $(PYTHON) $(PEERS)

clients: $(INSTALLED)  ## install other people's clients into .clients/, and test the gateway with them (minutes)
	tests/producers/gateway/clients/install $(PYTHON)
	NODE_PATH=$(CURDIR)/.clients/node_modules $(PYTEST) -m slow tests/producers/gateway/clients $(ARGS)

smollm2: $(INSTALLED)  ## fetch and convert SmolLM2-135M-Instruct, a trained model that slow tests use if it is there
	$(VENV)/bin/python -m pip install --quiet gguf
	$(RUN) tests.support.smollm2

lint: $(INSTALLED)  ## ruff, import directions
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(VENV)/bin/lint-imports

types: $(INSTALLED)  ## mypy, strict
	$(RUN) mypy

format: $(INSTALLED)  ## let ruff fix and format
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

references: $(INSTALLED)  ## write the pages that are made of the code: docs/cli.md, settings.md, fields.md, errors.md
	$(VENV)/bin/python tools/references.py

build: $(INSTALLED)  ## sdist, and the wheel from it, checked, in dist/
	rm -rf $(DIST)
	$(RUN) build --outdir $(DIST)
	$(VENV)/bin/python tools/check_wheel.py $(DIST)/*.whl

clean:  ## remove what the targets made, .venv too
	rm -rf $(VENV) .peers .clients $(DIST) build src/*.egg-info .hypothesis
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
