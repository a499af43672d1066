# make demo and make test set up what they need. PYTHON chooses the interpreter, PIP_FLAGS goes to pip
# (for example an index with CPU-only builds of torch).
PYTHON ?= python3
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PLUGINS := plugins/openvla-oft plugins/roboflamingo plugins/libero plugins/calvin
PYPROJECTS := pyproject.toml $(PLUGINS:%=%/pyproject.toml)
# CALVIN's simulator is no package: a checkout, at the commit that was tried.
CALVIN_REPO ?= https://github.com/mees/calvin_env
CALVIN_COMMIT := 797142c588c21e76717268b7b430958dbd13bf48
CALVIN := $(VENV)/calvin_env
TORCH := torch==2.13.0
# The oldest version that the backbone plugins allow, and the newest they were tried with.
TRANSFORMERS := 4.57.6 5.24.0
# Others' code that a test compares with, where it can be installed; their pins and what else they ask for are not needed.
COMPARED := open_flamingo==2.0.1 einops einops-exts
# Every pytest worker is one process: with more threads than cores they would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: setup demo libero calvin test test-libero test-calvin test-slow test-transformers lint bench clean help
.DELETE_ON_ERROR:

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## create .venv and install everything into it

demo: setup  ## profile, distill, eval and bench on the embedded default; ends with a table and an HTML report
	$(BIN)/dyslctl demo

# Without a GPU pictures are painted by OSMesa, a system library; everything else is pinned and installed by the plugin.
libero: setup  ## the LIBERO simulator and its scene files; ends with a rendered frame
	@ldconfig -p | grep -q libOSMesa || { echo "apt-get update && apt-get install -y libosmesa6" >&2; \
		apt-get update -qq && apt-get install -y -qq libosmesa6; } || echo "That needs root: run the line above." >&2
	$(BIN)/python -m dyslctl_libero setup

calvin: setup  ## the CALVIN simulator: a checkout of calvin_env (CALVIN_REPO says from where) and what it imports
	@test -e $(CALVIN) || git clone --quiet $(CALVIN_REPO) $(CALVIN) || \
		{ echo "Clone $(CALVIN_REPO) elsewhere, then: make calvin CALVIN_REPO=FOLDER" >&2; exit 3; }
	@git -C $(CALVIN) checkout --quiet $(CALVIN_COMMIT)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r plugins/calvin/src/dyslctl_calvin/simulator.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e $(CALVIN)

test: setup  ## the default test suite
	-@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(COMPARED)
	$(PYTEST) -n auto

test-libero: libero  ## the tests that run the real LIBERO simulator
	$(PYTEST) -m libero plugins/libero

test-calvin: calvin  ## the tests that run the real CALVIN simulator
	$(PYTEST) -m calvin plugins/calvin

test-slow: setup  ## the tests that need many minutes
	$(PYTEST) -m slow

test-transformers: $(TRANSFORMERS:%=test-transformers-%)  ## the backbone plugins, with their oldest and newest transformers

test-transformers-%: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade \
		--target $(VENV)/transformers-$* transformers==$*
	PYTHONPATH=$(VENV)/transformers-$* $(PYTEST) -q plugins/openvla-oft plugins/roboflamingo

lint: setup  ## style, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src $(PLUGINS:%=%/src)
	$(PYTEST) -q tests/test_import_direction.py

bench: setup  ## the benchmarks of benchmarks/, one after the other
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

clean:  ## remove .venv, runs and caches
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed, found: $$($(PYTHON) --version). Try make PYTHON=python3.12" >&2; exit 3; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "The venv module is missing. On Debian and Ubuntu: apt install python3-venv" >&2; exit 3; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 3; }

# torch first and by itself: its version is fixed, and PIP_FLAGS may say where to find a smaller build.
$(STAMP): $(PYPROJECTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) $(TORCH)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' $(PLUGINS:%=-e %)
	@touch $@
