# `make help` lists the targets. `demo` and `test` set everything up by themselves.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := outputs/demo

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all test-slurm lint types format benchmark clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED)  ## virtual environment in .venv/ with the package and all that the tests use

# The stamp is newer than what it was made from, so a second `make install` starts nothing.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is required; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(INSTALLED)

demo: $(INSTALLED)  ## deep against wide on embedded data, in minutes, and the report
	$(BIN)/python scripts/train.py -m experiment=demo
	$(BIN)/python scripts/compare.py $(DEMO)

test: $(INSTALLED)  ## the tests, at most 8 minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu"

test-slurm: $(INSTALLED)  ## sweeps on a SLURM of their own (Debian's slurm-wlm and munge)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs tests/slurm

test-all: test  ## the tests, then the long ones
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m slow --ignore tests/slurm
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs -m slow tests/slurm

lint: $(INSTALLED)  ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)  ## basedpyright
	$(BIN)/basedpyright

format: $(INSTALLED)  ## ruff: mend what can be mended
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

benchmark: $(INSTALLED)  ## the side-by-side measurements that the README quotes
	$(BIN)/python scripts/benchmark.py all

clean:  ## remove the virtual environment and caches, not outputs/
	rm -rf $(VENV) .pytest_cache .ruff_cache *.egg-info
