# One command each, on a fresh machine too: demo, test, fuzz, lint, check (all of CI), wheels (x86-64 and aarch64).
# Without a C compiler, and for the tests, torch is needed too. Where the default one would pull CUDA, give the index of
# PyTorch's CPU wheels: make demo TORCH_INDEX=URL

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := $(shell grep '^torch==' constraints.txt)
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

HAS_KERNELS := $(BIN)/python -c 'import sys; from tpid.compute.native.library import load; sys.exit(load() is None)'
INSTALL_TORCH := $(PIP_INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) $(TORCH)

CROSS_TOOLS := gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user

# A wheel that others can install: kernels in it, for any Python from 3.11 on and any glibc from the one here on.
WHEEL := $(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .
ARM64 := _PYTHON_HOST_PLATFORM=linux-aarch64 CC=aarch64-linux-gnu-gcc LDSHARED="aarch64-linux-gnu-gcc -shared"

.PHONY: demo test fuzz chaos soak schemas lint types imports check wheels cross-tools clean

demo: $(VENV)/.runtime
	@$(BIN)/python -m tpid.daemon.demo

# TESTS="tests/unit/plan -x": only these. Real daemons have the cores for themselves; the rest shares them out.
test: $(VENV)/.development
ifdef TESTS
	@$(BIN)/python -m pytest $(TESTS)
else
	@$(BIN)/python -m pytest --numprocesses auto --dist loadfile tests/unit tests/native tests/fuzz
	@$(BIN)/python -m pytest tests/integration tests/cluster
endif

# Longer than the tests do: make fuzz SECONDS=600 TARGETS="gguf frames"
fuzz: $(VENV)/.development
	@$(BIN)/python -m tests.fuzz $(or $(TARGETS),all) --seconds $(or $(SECONDS),60)

# Real daemons under so many faults, and so many requests with cancels; the tests do the former for a few minutes.
chaos: $(VENV)/.development
	@TPID_CHAOS=$(or $(FAULTS),500) $(BIN)/python -m pytest -s tests/integration/test_chaos.py

soak: $(VENV)/.development
	@TPID_SOAK=$(or $(REQUESTS),10000) $(BIN)/python -m pytest -s tests/integration/test_soak.py

# So many JSON schemas, and answers of a real model by each; the tests do a few.
schemas: $(VENV)/.development
	@TPID_SCHEMAS=$(or $(SCHEMAS),500) $(BIN)/python -m pytest -s tests/integration/test_schemas.py tests/unit/model/test_grammar.py

lint: $(VENV)/.development
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.development
	$(BIN)/mypy

imports: $(VENV)/.development
	$(BIN)/lint-imports

check: lint types imports test

wheels: cross-tools
	@rm -rf build dist
	@$(WHEEL)
	@if command -v aarch64-linux-gnu-gcc >/dev/null; then $(ARM64) $(WHEEL); fi
	@for wheel in dist/*.whl; do $(PYTHON) -c 'import sys, zipfile; names = zipfile.ZipFile(sys.argv[1]).namelist(); \
	  sys.exit("tpid/compute/native/_kernels.so" not in names and f"{sys.argv[1]} has no kernels: was there a compiler?")' \
	  $$wheel; done
	@ls -l dist

# For the tests of the ARM kernels on another processor; without these tools they skip.
cross-tools:
	@command -v aarch64-linux-gnu-gcc >/dev/null && command -v qemu-aarch64 >/dev/null || \
	{ test "$$(id -u)" = 0 && command -v apt-get >/dev/null && { apt-get -qq update; \
	  DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends $(CROSS_TOOLS) >/dev/null; }; } || \
	echo "WARNING: the ARM kernels will not be tested: install $(CROSS_TOOLS) as root" >&2

clean:
	rm -rf $(VENV) .demo build dist

$(VENV)/.runtime: pyproject.toml constraints.txt setup.py $(wildcard tpid/compute/native/*.[ch])
	@echo "Setting up $(VENV) (once) ..." >&2
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("tpid needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --editable .
	@$(HAS_KERNELS) || { echo "No kernels were built, so torch computes; it is large ..." >&2; $(INSTALL_TORCH); }
	@touch $@

$(VENV)/.development: $(VENV)/.runtime
	@$(INSTALL_TORCH)
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@
