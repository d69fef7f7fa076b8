# Two commands do everything on a fresh machine with Python 3.11 and pip: `make demo` and `make test`.
PYTHON ?= python3.11
BIN := .venv/bin
ARGS ?=
NODES ?= 1
export PYTHON

.DEFAULT_GOAL := help
.PHONY: help install demo test test-faults test-gpu lint format loadtest bench clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: ## Make .venv and install the locked CPU set into it
	@requirements/install.sh .venv

demo: install ## Run the whole loop on real data and show what it learned (ARGS=--json, ARGS=--keep)
	@$(BIN)/slipstream demo $(ARGS)

test: install ## Run every test that a CPU can run; starts and ends what they need
	@$(BIN)/python -m pytest $(ARGS)

test-faults: install ## Kill groups of trainers at every named moment, on Apache Kafka ($KAFKA_HOME; NODES=3: on three), with a table
	@SLIPSTREAM_FAULTS=all SLIPSTREAM_KAFKA_NODES=$(NODES) SLIPSTREAM_REQUIRE_KAFKA=1 $(BIN)/python -m pytest tests/integration/test_trainer_group.py tests/integration/test_trainer_rounds.py $(ARGS)

test-gpu: ## Run the GPU tests with the python on the PATH (needs torch with CUDA, and vLLM for its part)
	python -m pytest tests/gpu -m gpu $(ARGS)

lint: install ## Check format, style, types, import walls and spelling
	@$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports && $(BIN)/codespell

format: install ## Format the code and mend what ruff can mend
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

loadtest: install ## Replay real users against a running demo for a minute (start one with: make demo ARGS=--keep)
	@$(BIN)/slipstream loadtest locust $(ARGS)

bench: install ## Time the kernels on this machine (ARGS='--device cpu --json')
	@$(BIN)/slipstream bench kernels $(ARGS)

clean: ## Remove the virtual environment and every cache of this checkout
	rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
