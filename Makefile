# Builds, shows and checks the project; `make` lists what there is. PYTHON chooses the interpreter for .venv.

PYTHON ?= python3
BIN := .venv/bin

# mke2fs, debugfs and losetup are not on the path of an ordinary user of Debian.
export PATH := $(PATH):/usr/sbin:/sbin

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo demo-boot test test-slow lint bench bench-peers fuzz clean

help:  ## list these targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 18

setup:  ## install what is missing: Debian packages, .venv, the project with its development tools
	@.ci/setup-system.sh
	@command -v $(PYTHON) >/dev/null || { echo "setup: no $(PYTHON) on the path; install python3" >&2; exit 1; }
	@$(PYTHON) .ci/setup_venv.py

demo: setup  ## a real disk behind a URL becomes an image, through gRPC (about a minute)
	@$(BIN)/python -m benchmarks.demo

demo-boot: setup  ## an image boots over NBD, is written to, and is an image again (about two minutes)
	@$(BIN)/python -m benchmarks.demo_boot

test: lint  ## what has to pass before a change lands: lint and every test that is not slow
	@$(BIN)/python -m pytest -q -m "not slow" -n auto --maxprocesses 4 --dist loadfile

test-slow: setup  ## the tests that take minutes
	@$(BIN)/python -m pytest -q -m slow

# cython-lint looks for pycodestyle on the path.
lint: setup  ## style and types
	@$(BIN)/ruff check --quiet
	@$(BIN)/ruff format --check --quiet || { echo "lint: run $(BIN)/ruff format" >&2; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint ext

bench: setup  ## speeds, each beside the rate it is measured against
	@mkdir -p build/bench
	@$(BIN)/python -m pytest -q --benchmark-only --benchmark-json=build/bench/bench.json \
	  -o addopts=--strict-markers -o python_files='bench_*.py' benchmarks
	@$(BIN)/python -m benchmarks.picture build/bench/bench.json build/bench/bench.svg

bench-peers: setup  ## whole processes beside borg, restic, casync, bup and others, which it installs
	@.ci/setup-peers.sh
	@$(BIN)/python -m benchmarks.peers

FUZZ_SECONDS ?= 60

# Coverage-guided fuzzing of every parser, FUZZ_SECONDS each; inputs are kept in build/fuzz, crashes too. The fuzzer is
# no part of .venv until it is asked for here.
fuzz: setup  ## coverage-guided fuzzing of every parser, FUZZ_SECONDS (60) each
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet $$($(BIN)/python -c \
	  'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["fuzz"])')
	@for target in $$($(BIN)/python -m tests.fuzz); do \
	  echo "fuzzing $$target for $(FUZZ_SECONDS) s" && \
	  $(BIN)/python -m tests.fuzz $$target --seconds $(FUZZ_SECONDS) || exit 1; done

clean:  ## remove everything that the targets above made, .venv included
	rm -rf .venv .corpus .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks build dist *.egg-info
	rm -rf service/_pb dataplane/_native/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
