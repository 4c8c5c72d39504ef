# The two commands of a fresh machine: `make demo` and `make test`. Both make the virtual environment first, the demo's
# with what a user needs, which takes half of the time of what the tests need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# dvc runs its stages with the `python` of the environment
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: demo test test-slow faults lint docs install clean

demo: $(INSTALLED)-dvc
	dvc repro
	dvc metrics show
	@echo 'The report: results/report.html. One training says little: README.md has the gain over seeds.'

# a process for each core, with a thread each
test: lint
	OMP_NUM_THREADS=1 pytest -n auto

# a file stays in one process, for the clones that its tests share
test-slow: install
	OMP_NUM_THREADS=1 pytest -m slow -n auto --dist loadfile

# the long run of tests/faults, whose table goes into docs/reliability.md
faults: install
	DLKDD_FAULTS=long OMP_NUM_THREADS=1 pytest -m slow -n auto --dist worksteal tests/faults

lint: install
	ruff check .
	ruff format --check .
	mypy
	lint-imports

# the site in site/html; REPOSITORY=https://…/blob/main makes links of the files that are no pages
docs: install
	python docs/make_site.py site/pages $(REPOSITORY)
	zensical build --strict
	@echo 'The site: site/html/index.html. To search in it: python -m http.server --directory site/html'

install: $(INSTALLED)-dev

$(INSTALLED)-%: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) .work site data models results teachers/made
