# make demo    sets up .venv and moves the example catalogue from its old base model to the new one
# make test    the same set-up, then the whole test suite          (PYTEST_ARGS="-k plan" to choose)
# make lint    format, lint, types, import contracts, generated docs: what needs no run of the code
# make check   everything a change has to pass: lint, then the tests
# make docs    writes the generated pages of docs/ anew
# make lock    resolves pyproject.toml anew and writes requirements.lock
# make clean   removes .venv, caches and the demo's data

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=

SET_UP := $(VENV)/.set-up
RUN := $(VENV)/bin

# The set-up installs without compiling and lets each program keep the byte code of what it imports:
# half the installation time, and nothing is compiled that is never used.
unexport PYTHONDONTWRITEBYTECODE
export DO_NOT_TRACK := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: demo test lint check docs lock clean set-up

demo: $(SET_UP)
	$(RUN)/lorax migrate examples/digits/migration.toml

test: $(SET_UP)
	$(RUN)/python -m pytest $(PYTEST_ARGS)

lint: $(SET_UP)
	@PATH="$(CURDIR)/$(RUN):$$PATH" scripts/check

check: lint test

docs: $(SET_UP)
	$(RUN)/python scripts/generate_docs.py

lock:
	$(PYTHON) scripts/make_lock.py

clean:
	rm -rf $(VENV) lorax-data .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

set-up: $(SET_UP)

$(SET_UP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("lorax needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; choose one: make PYTHON=python3.11 demo" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	@echo "Installing the pinned packages into $(VENV); the first time this downloads about 430 MB (more where pip chooses a CUDA build of torch)."
	$(RUN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-compile --requirement requirements.lock
	$(RUN)/python -m pip install --quiet --quiet --disable-pip-version-check --no-compile --no-deps --no-build-isolation --editable .
	@touch $@
