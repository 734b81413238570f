# mvpnet's commands; `make help` lists them. Each first installs what is missing (`make setup`).
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-quick test-costs test-mpi-matrix check docs fuzz

# The programs of .venv come first, and so does its mpiexec where PyPI's mpich is in there.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

# More arguments for pytest, as in: make test ARGS="-m 'not boot' -x"
ARGS ?=
# So many tests at a time: many wait for something that takes little CPU. 0 runs all in pytest's own process, as --pdb
# needs it. What shares something runs in one process: tests/sharing.py.
TEST_JOBS ?= $(shell cores=$$(nproc); echo $$((cores < 4 ? cores + 1 : 4)))
PYTEST_ARGS = --numprocesses $(TEST_JOBS) --durations 10 $(ARGS)

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' Makefile

setup: ## install everything into .venv, and by apt what the machine lacks
	@tools/setup.sh

demo: setup ## boot two guests as a two-rank MPI job and measure between them
	mpiexec -n 2 mvpnet recipe=demo

test: setup ## run all tests, those under MPI and those that boot guests too
	pytest $(PYTEST_ARGS)

test-quick: setup ## run the tests without guests, without jobs of stand-ins, and without the MPI matrix: the inner loop
	pytest $(PYTEST_ARGS) -m "not boot and not job and not mpi"

test-costs: setup ## run all tests, and leave a table of what each file cost in .costs.md (docs/testing.md)
	pytest $(PYTEST_ARGS) --costs=.costs.md

test-mpi-matrix: setup ## run the tests under mpiexec again, on Debian's MPICH and Debian's Open MPI
	tools/mpi-matrix.sh $(PYTEST_ARGS)

check: setup ## check style and types
	ruff check .
	ruff format --check .
	mypy --strict mvpnet hydra_plugins

# Sphinx has an environment of its own, so that `make setup` need not wait for it.
build/docs-venv/installed: pyproject.toml | setup
	python -m venv --clear build/docs-venv
	build/docs-venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@

docs: build/docs-venv/installed ## build a site of all pages and the API's reference, build/site/index.html; a warning is an error
	build/docs-venv/bin/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet -d build/doctrees -c docs . build/site

FUZZ_SECONDS ?= 120

fuzz: setup ## fuzz the data plane for FUZZ_SECONDS=120, guided by coverage; what is found is in .fuzz/crash-*
	pip install --quiet --disable-pip-version-check 'atheris>=3'
	mkdir -p .fuzz/corpus
	cd .fuzz && python ../fuzz/dataplane.py -max_total_time=$(FUZZ_SECONDS) -max_len=8192 corpus
