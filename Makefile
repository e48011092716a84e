PYTHON ?= python3
BIN := .venv/bin

.PHONY: train test test-slow setup benchmark

train: setup  ## make train ARGS="classic --game breakout"
	$(BIN)/python -m runs.train_dqn $(or $(ARGS),pong)

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/pytest -n 2 --dist worksteal

test-slow: setup
	$(BIN)/pytest -m slow

benchmark: setup
	$(BIN)/python -m runs.benchmark $(ARGS)

setup: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "needs Python 3.11 or newer, '$(PYTHON)' is older: make setup PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt torch
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e '.[dev]'
	touch $@
