# The two commands of a fresh machine: `make demo` and `make test`. Both make the virtual environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# dvc runs its stages with the `python` of the environment
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test test-slow lint install clean

demo: install
	dvc repro
	cat results/metrics.json
	@echo 'The report: results/report.html'

# a process for each core, with a thread each
test: lint
	OMP_NUM_THREADS=1 pytest -n auto

test-slow: install
	pytest -m slow

lint: install
	ruff check .
	ruff format --check .
	mypy
	lint-imports

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .work data models results
