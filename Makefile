# One command each, on a fresh machine too: demo, test, lint, check (all of CI).
# Where the default torch would pull CUDA, give the index of PyTorch's CPU wheels: make demo TORCH_INDEX=URL

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell grep '^torch==' constraints.txt)
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test lint types imports check clean

demo: $(VENV)/.runtime
	@$(BIN)/python -m tpid.daemon.demo

test: $(VENV)/.development
	@$(BIN)/python -m pytest $(TESTS)

lint: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.development
	$(BIN)/mypy

imports: $(VENV)/.development
	$(BIN)/lint-imports

check: lint types imports test

clean:
	rm -rf $(VENV) .demo

$(VENV)/.runtime: pyproject.toml constraints.txt setup.py $(wildcard tpid/compute/native/*.[ch])
	@echo "Setting up $(VENV) (once; torch is the larger part of it) ..." >&2
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("tpid needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
ifdef TORCH_INDEX
	@$(PIP_INSTALL) --index-url $(TORCH_INDEX) $(TORCH)
endif
	@$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.development: $(VENV)/.runtime
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@
