# Two commands are all that a newcomer needs: `make demo` and `make test`.  Each does its own set-up, in
# .venv/, without root.  What needs more (mounts, Wine, peer tools) is skipped with a reason.

PYTHON ?= python3
VENV   ?= .venv
IMAGE  ?=
PYTEST_ARGS ?=

bin    := $(VENV)/bin
stamp  := $(VENV)/.installed

.PHONY: demo test test-windows lint types bench clean help

help:  ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

$(stamp): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(bin)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(bin)/python -m pip install --quiet --editable . --group test --group lint
	@touch $@

demo: $(stamp)  ## the whole story on a small image, or on IMAGE=oci:LAYOUT:TAG
	@$(bin)/python tools/demo.py $(if $(IMAGE),"$(IMAGE)")

test: lint types $(stamp)  ## lint, types and all tests
	$(bin)/python -m pytest -n auto $(PYTEST_ARGS)

test-windows: $(stamp)  ## the Windows code under Wine
	$(bin)/python tests/windows/run.py

lint: $(stamp)
	$(bin)/ruff check .
	$(bin)/ruff format --check .

types: $(stamp)
	$(bin)/mypy
	$(bin)/mypy --platform win32 src

bench: $(stamp)  ## benchmarks, side by side with their peers
	@for b in benchmarks/bench_*.py; do echo "== $$b"; $(bin)/python $$b || exit 1; done

clean:
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache build dist
