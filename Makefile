# Needs Python 3.11 or newer with pip, nothing else. Another interpreter: make demo PYTHON=python3.12
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# threads that spin while they wait slow a busy machine down tenfold and more
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup demo test soak lint clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /make \1	/p' $(MAKEFILE_LIST)

setup: $(READY) ## make .venv with the versions of constraints.txt

# modules are compiled when they are first imported: to compile them all is half of an installation
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "titans-seq needs Python 3.11 or newer, this is %s. Try make PYTHON=python3.12" % sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: $(READY) ## train and predict in both fields on the samples; results in demo-run/
	$(BIN)/titans-seq demo --out demo-run --overwrite

test: $(READY) ## run the tests
	$(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadscope

soak: $(READY) ## run the long tests: kills, fuzzing, millions of tokens
	$(BIN)/python -m pytest -m soak --timeout 3600

lint: $(READY) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove what was built, run and cached; .venv stays
	rm -rf demo-run build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
