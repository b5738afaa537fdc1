# `make` prints this file's targets. Overrides travel to the command: make train EXP=smoke seed=3 method.fca=0
# Words with a `$` or spaces go through ARGS="...". TORCH_ARGS chooses a CUDA build for an old driver, e.g.
#   make install TORCH_ARGS="torch torchvision --index-url <the index of your CUDA version>"
PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip --quiet --disable-pip-version-check
STAMP   := $(VENV)/.installed
TESTS   := $(VENV)/.installed-tests
NEWEST  := .venv-newest
EXP     ?= fashion
WORKERS ?= 2
OVERRIDES = $(filter-out EXP=% ARGS=% PYTHON=% TORCH_ARGS=% LOCK_ARGS=% WORKERS=%,$(MAKEOVERRIDES)) $(ARGS)
# What TORCH_ARGS replaces: the build of torch in the lock and the CUDA packages that belong to it.
ITS_TORCH := ^(torch|torchvision|triton|nvidia-|cuda-)

.DEFAULT_GOAL := help
.PHONY: help install headroom train evaluate table tune sweep report bench test test-slow test-all lint types upgrade newest clean

help: ## Show what each target does
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

$(STAMP): pyproject.toml requirements/train.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(if $(TORCH_ARGS),$(PIP) install $(TORCH_ARGS))
	grep -vE '$(if $(TORCH_ARGS),$(ITS_TORCH),^$$)' requirements/train.txt > $(VENV)/requirements.txt
	$(PIP) install -r $(VENV)/requirements.txt
	$(PIP) install --no-deps -e .
	touch $@

$(TESTS): $(STAMP) requirements/test.txt
	grep -v '^-r' requirements/test.txt > $(VENV)/requirements-tests.txt
	$(PIP) install -r $(VENV)/requirements-tests.txt
	touch $@

install: $(STAMP) ## Create .venv with the tested versions of everything a run needs (requirements/train.txt; minutes, once)

headroom: $(STAMP) ## Say before training what a prompt could win: make headroom data=NAME mllm=A,B [key=value ...]
	$(BIN)/python -m experiments.headroom $(OVERRIDES)

train: $(STAMP) ## Learn a prompt on real photographs and score it on the targets: make train [EXP=name] [key=value ...]
	$(BIN)/python -m experiments.train exp=$(EXP) $(OVERRIDES)

evaluate: $(STAMP) ## Score a finished prompt: make evaluate prompt=DIR mllm=NAME [key=value ...]
	$(BIN)/python -m experiments.evaluate $(OVERRIDES)

table: $(STAMP) ## Compare methods from one source (a sweep; resumable), as `make train` prints beside: make table [EXP=embedded]
	$(BIN)/python -m experiments.transfer_sweep sweep=$(EXP)_one_source $(OVERRIDES)

tune: $(STAMP) ## Search settings of vp, evp, fca, tse, tvp on the source's validation: make tune [sources=A,B] [plan=true]
	$(BIN)/python -m experiments.tune $(OVERRIDES)

sweep: $(STAMP) ## Run or continue a transfer matrix: make sweep [sweep=NAME] [key=value ...]
	$(BIN)/python -m experiments.transfer_sweep $(OVERRIDES)

report: $(STAMP) ## One HTML page about a sweep or a run, its tables and pictures: make report run=DIR
	$(BIN)/python -m experiments.report $(OVERRIDES)

bench: $(STAMP) ## Time scoring and training against the naive protocol, then the data: make bench [out=FILE.json]
	$(BIN)/python -m experiments.bench $(OVERRIDES)
	$(BIN)/python -m experiments.bench.data

test: $(TESTS) ## Run the tests that guard every score (minutes; WORKERS=N processes, ARGS="-k word")
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow" $(ARGS)

test-slow: $(TESTS) ## Run the rest: browser, Ray, SLURM, kill runs, planted statistics, memory of loading, ...
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow $(ARGS)

test-all: test test-slow ## Both

lint: $(TESTS) ## Check style
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(TESTS) ## Check types
	$(BIN)/python -m mypy

upgrade: $(STAMP) ## Write new locks from pyproject's ranges, install them, run the tests [LOCK_ARGS="--constraint FILE"]
	$(PIP) install uv
	$(BIN)/python requirements/lock.py $(LOCK_ARGS)
	$(MAKE) test

newest: ## Install the newest versions our ranges allow into .venv-newest and run the tests there
	test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager -e ".[dev]"
	$(NEWEST)/bin/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow" $(ARGS)

clean: ## Remove caches and build leftovers (never runs or weights)
	rm -rf build *.egg-info .pytest_cache .ruff_cache .mypy_cache $(NEWEST)
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
