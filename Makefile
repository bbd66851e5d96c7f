# Each target creates .venv itself, except benchmark-gpu: see benchmarks/gpu.sh.
# ARGS goes to the command: make train ARGS="--preset tiny"

PYTHON ?= python3
BIN := .venv/bin

.PHONY: help train train-flax test parity faults gpu-proof benchmark benchmark-gpu docs docs-test lint format clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 16

train: .venv/installed ## train GPT-2 124M on Shakespeare in PyTorch
	$(BIN)/python -m gpt_torch.train $(ARGS)

train-flax: .venv/installed ## the same in Flax
	$(BIN)/python -m gpt_flax.train $(ARGS)

test: .venv/installed-dev ## the fast tests
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto $(ARGS)

parity: .venv/installed-dev ## compare both twins with the float64 reference, GPT-2 124M included
	$(BIN)/python -m pytest tests/parity $(ARGS)

faults: .venv/installed-dev ## mutation testing: the tests must catch each known fault
	$(BIN)/python -m tests.faults $(ARGS)

benchmark: .venv/installed-dev ## training and generation against Hugging Face's GPT-2, with plots
	$(BIN)/python -m benchmarks.train_step --out benchmarks/results/train_step.json $(ARGS)
	$(BIN)/python -m benchmarks.generate --out benchmarks/results/generate.json
	$(BIN)/python -m benchmarks.plot benchmarks/results/train_step.json \
		--out benchmarks/results/train_step.png
	$(BIN)/python -m benchmarks.plot benchmarks/results/generate.json \
		--out benchmarks/results/generate.png

gpu-proof: .venv/installed-dev ## compile both twins for an NVIDIA GPU, without one; the Flax half needs ".[cuda]"
	$(BIN)/python -m benchmarks.fake_cuda -m pytest tests/gpu_proof --ignore tests/gpu_proof/test_flax.py
	JAX_PLATFORMS=cuda,cpu JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 GPU_PROOF_LAYERS=12 \
		$(BIN)/python -m pytest tests/gpu_proof/test_flax.py $(ARGS)

benchmark-gpu: ## parity and the lecture's optimisations on an NVIDIA GPU, 15 minutes
	benchmarks/gpu.sh $(ARGS)

docs: .venv/installed-docs ## the site, in build/docs
	$(BIN)/python -m sphinx --builder html --nitpicky --fail-on-warning --keep-going --quiet \
		docs build/docs $(ARGS)

docs-test: .venv/installed-docs-test docs ## the site in a browser: chromium, of Debian's package
	$(BIN)/python -m pytest docs/tests --numprocesses auto $(ARGS)

lint: .venv/installed-dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed-dev ## format the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove .venv and all caches
	rm -rf .venv .venv-gpu build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and \
		"error: expected Python 3.11 or later, got %d.%d from $(PYTHON): try make PYTHON=python3.11" % v[:2])'
	@echo "Setting up .venv, once: this takes a minute or two"
	@test -e $@ || rm -rf .venv  # left by a failed attempt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/installed-docs: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs]"
	touch $@

.venv/installed-docs-test: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[docs-test]"
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@
