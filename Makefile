# `make help` lists the targets. Each target runs `install` first if it is needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO := outputs/demo

# Processes of the tests share what Python has compiled.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all test-slurm lint types format docs benchmark clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(INSTALLED)  ## create .venv/ with the package and everything that the tests need

# The stamp file is newer than the files that it depends on, so a second `make install` does nothing.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is required; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(INSTALLED)

demo: $(INSTALLED)  ## compare deep and wide models within minutes, on the sources of Python, and write the report
	$(BIN)/python scripts/train.py -m experiment=demo
	$(BIN)/python scripts/compare.py $(DEMO)

test: $(INSTALLED)  ## run the tests, in at most 8 minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu"

test-slurm: $(INSTALLED)  ## run the SLURM tests, which start their own SLURM (Debian's slurm-wlm and munge)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs tests/slurm

test-all: test  ## run the tests, then the slow tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m slow --ignore tests/slurm
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -rs -m slow tests/slurm

lint: $(INSTALLED)  ## check rules and formatting (ruff) and spelling (codespell)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell

types: $(INSTALLED)  ## check types (basedpyright)
	$(BIN)/basedpyright

format: $(INSTALLED)  ## fix rules and formatting, as far as ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(INSTALLED)  ## build the documentation and the API reference in site/, without network
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo site/index.html

benchmark: $(INSTALLED)  ## run the measurements of docs/benchmarks.md
	$(BIN)/python scripts/benchmark.py all

clean:  ## remove the virtual environment, site/ and caches, but not outputs/
	rm -rf $(VENV) site .pytest_cache .ruff_cache *.egg-info
