# Each target makes its own .venv on a fresh clone. `make` alone prints this help.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1

.DEFAULT_GOAL := help
.PHONY: help install quickstart bench test test-fast test-all test-vllm rehearse rehearse-real lint format clean

help: ## print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: .venv/installed ## make .venv with the exact tested versions

.venv/installed: launch/requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' launch/requirements.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r launch/requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

quickstart: .venv/installed ## SFT, RLOO and best-of-N on Countdown: two CPU cores, minutes, nothing to download
	$(BIN)/python -m qwen_align experiment=quickstart

bench: .venv/installed ## the study in miniature with its claims, 20 minutes; speed: make bench SUITE=speed, 20 minutes
ifdef SUITE
	$(BIN)/python -m qwen_align.bench suite=$(SUITE) $(ARGS)
else
	$(BIN)/python -m qwen_align experiment=tiny_instruction $(ARGS)
	$(BIN)/python -m qwen_align experiment=tiny_maths $(ARGS)
endif

test: .venv/installed ## the test suite, a process for each of two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-fast: .venv/installed ## what trains nothing, 80 seconds
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not long and not vllm"

test-all: .venv/installed ## with the tests of several processes that take minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m ""

.venv-vllm/installed: launch/requirements-vllm.txt pyproject.toml
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' launch/requirements-vllm.txt)"
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r launch/requirements-vllm.txt
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

test-vllm: .venv-vllm/installed ## the tests that need vLLM, on a CPU, in an environment of their own
	OMP_NUM_THREADS=1 .venv-vllm/bin/python -m pytest -m vllm tests/vllm_engine

rehearse: .venv/installed ## the recipes of conf/ on small stand-ins of the Hub's models and data sets, a minute
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/rehearsal

rehearse-real: .venv/installed ## two steps a stage at real size, memory beside its forecast; make rehearse-real ARGS="--layers 4"
	PYTHONPATH=tests $(BIN)/python -m rehearsal.real $(ARGS)

lint: .venv/installed ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed ## let ruff rewrite the layout
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv, caches and builds; runs/ stays
	rm -rf .venv .venv-vllm build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
