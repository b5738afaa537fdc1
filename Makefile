# `make` prints this file's targets. Overrides travel to the command: make train EXP=smoke seed=3 method.fca=0
# Words with a `$` or spaces go through ARGS="...". TORCH_ARGS chooses a CUDA build for an old driver, e.g.
#   make install TORCH_ARGS="torch torchvision --index-url <the index of your CUDA version>"
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
EXP    ?= embedded
WORKERS ?= 2
OVERRIDES = $(filter-out EXP=% ARGS=% PYTHON=% TORCH_ARGS=% FAST=% WORKERS=%,$(MAKEOVERRIDES)) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help install train evaluate table tune sweep report bench test lint clean

help: ## Show what each target does
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(TORCH_ARGS),$(BIN)/python -m pip install --quiet $(TORCH_ARGS))
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	touch $@

install: $(STAMP) ## Create .venv with everything the project needs (2-4 minutes, once)

train: $(STAMP) ## Learn a prompt and score it on the targets: make train [EXP=name] [key=value ...]
	$(BIN)/python -m experiments.train exp=$(EXP) $(OVERRIDES)

evaluate: $(STAMP) ## Score a finished prompt: make evaluate prompt=DIR mllm=NAME [key=value ...]
	$(BIN)/python -m experiments.evaluate $(OVERRIDES)

table: $(STAMP) ## Compare none, vp, evp, tvp from one source, tuned alike (3 seeds; resumable): what `make train` prints beside
	$(BIN)/python -m experiments.table $(OVERRIDES)

tune: $(STAMP) ## Choose lr and epochs of vp, evp, tvp on the source's validation data: make tune [data=NAME]
	$(BIN)/python -m experiments.tune $(OVERRIDES)

sweep: $(STAMP) ## Run or continue a transfer matrix: make sweep [sweep=NAME] [key=value ...]
	$(BIN)/python -m experiments.transfer_sweep $(OVERRIDES)

report: $(STAMP) ## One HTML page about a sweep or a run, its tables and pictures: make report run=DIR
	$(BIN)/python -m experiments.report $(OVERRIDES)

bench: $(STAMP) ## Time scoring and training against the naive protocol, then the data: make bench [out=FILE.json]
	$(BIN)/python -m experiments.bench $(OVERRIDES)
	$(BIN)/python -m experiments.bench.data

test: $(STAMP) ## Run the tests (FAST=1 leaves out those marked slow; WORKERS=N processes)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(if $(FAST),-m "not slow") $(ARGS)

lint: $(STAMP) ## Check style
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

clean: ## Remove caches and build leftovers (never runs or weights)
	rm -rf build *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
