# Every target sets up what it needs: a machine with Python 3.11+ and make is enough.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: setup demo test test-browser test-triton check bench docs site golden clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: setup            ## teach a small model a task with forward passes only, without a network
	$(BIN)/foretune demo

test: setup            ## the whole test suite
	$(BIN)/python -m pytest

test-browser: setup    ## the page of a report in Chromium, where there is one; part of the whole suite
	$(BIN)/python -m pytest tests/browser

test-triton: setup     ## the GPU kernels without a GPU; first installs Triton where PyTorch brought none (190 MB)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[gpu]"
	$(BIN)/python -m pytest tests/kernels/test_noise_triton.py

check: setup           ## format, lint, types, import layers, spelling
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports
	$(BIN)/codespell

bench: setup           ## steps and noise against their floors; appends to benchmarks/results, refuses on a red test
	$(BIN)/python -m pytest -q -x tests/kernels tests/promises
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/report.py

docs: setup            ## the pages that are generated from the code, and from what was measured
	$(BIN)/python docs/generate_methods.py
	$(BIN)/python docs/generate_tasks.py
	$(BIN)/python docs/generate_coming_from.py
	$(BIN)/python docs/generate_bad_inputs.py
	$(BIN)/python benchmarks/report.py

site: setup            ## the documentation site, in site/; first installs what builds it (25 MB)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	$(BIN)/python -m pytest tests/documents/test_site.py

golden: setup          ## record anew what tasks look like to a model; read the difference
	$(BIN)/python tests/golden/tasks/record.py

clean:
	rm -rf $(VENV) build dist site .pytest_cache .ruff_cache
