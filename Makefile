# Needs Python 3.10 or newer and make; everything else is installed into .venv on the first call.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
ARGS ?=
PIP_ARGS ?=
BIN := $(VENV)/bin
STAMP := $(VENV)/.moca-installed
DOCS_STAMP := $(VENV)/.moca-docs-installed

.DEFAULT_GOAL := help
.PHONY: help env quickstart test notebooks docs check clean

help: ## show this list
	@echo "Targets (override PYTHON=python3.12, ARGS='...', PIP_ARGS='...' or CONSTRAINTS= for the newest versions):"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{printf "%-18s %s\n", $$1, $$2}'

env: $(STAMP) ## make the environment .venv with the tested versions

quickstart: $(STAMP) ## train, evaluate and report on the embedded corpus: runs/quickstart
	$(BIN)/moca quickstart --out runs/quickstart $(ARGS)

test: $(STAMP) ## run every notebook cell and every ordinary test, two files at a time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

notebooks: $(STAMP) ## execute the notebooks in place, refreshing their outputs
	$(BIN)/python tools/run_nbs.py $(ARGS)

docs: $(DOCS_STAMP) ## build the documentation from the notebooks as they stand: _docs/html
	$(BIN)/python tools/docsite.py
	$(BIN)/python -m sphinx -b html -W --keep-going -q _docs/source _docs/html $(ARGS)
	@echo "_docs/html/index.html"

check: ## what continuous integration runs
	.ci/run

clean: ## remove builds, caches and coverage data (.venv and runs stay)
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .coverage .coverage.* htmlcov _docs _proc
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# Installed once, and again when the requirements or the tested versions change. torchvision, which sentence-transformers' processors ask for,
# lies apart: pip brings one that is built for a GPU, and beside a torch for the CPU importing transformers fails. One test uses it.
$(STAMP): settings.ini $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "moca needs Python 3.10 or newer: call make with PYTHON=/path/to/python3" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "$(PYTHON) -m venv failed: install the venv module (on Debian: python3-venv)" >&2; exit 1; }
	$(BIN)/python -m pip install --disable-pip-version-check -q $(PIP_ARGS) $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[dev]'
	rm -rf $(VENV)/torchvision
	$(BIN)/python -m pip install --disable-pip-version-check -q $(PIP_ARGS) $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) \
	  --no-deps --target $(VENV)/torchvision torchvision
	@touch $@

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check -q $(PIP_ARGS) $(if $(CONSTRAINTS),-c $(CONSTRAINTS)) -e '.[docs]'
	@touch $@
