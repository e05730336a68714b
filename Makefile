# Two commands, from nothing but Python (3.11 to 3.13, with venv) and make: `make train` and `make test`.
#
#   PYTHON    the interpreter that creates the environment            make train PYTHON=python3.12
#   VENV      where the environment is created
#   PIP_ARGS  passed to pip. On Linux pip's default build of torch brings several GB of CUDA libraries; where no GPU is
#             to be used, point pip here at the index of torch's CPU builds: `constraints.txt` accepts both.
#   ARGS      passed to the command                                   make train ARGS="seed=2 steps=50000"
#   JOBS      test processes; 0: all in one process, in order         make test JOBS=0 ARGS="-k pcgrad"

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
ARGS ?=
JOBS ?= 2

BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt $(PIP_ARGS)
DISTRIBUTION = setup.cfg pyproject.toml constraints.txt
# Test processes share the cores, so each uses one thread.
PYTEST = $(if $(filter 0,$(JOBS)),,OMP_NUM_THREADS=1 )$(BIN)/pytest -n $(JOBS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help train results-check test test-parity test-grid test-faults soak lint format docs pictures bench bench-rivals bench-scale check-image clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "make %-17s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

train: $(VENV)/.installed-train ## train MT10 on the CPU, 4.8 million steps
	$(BIN)/mtrl train recipe=quick $(ARGS)

results-check: $(VENV)/.installed-train ## evaluate the policies of results/mt10 again
	$(BIN)/mtrl study results/mt10 --check

results-%: $(VENV)/.installed-results ## repeat results/NAME: mt10, mt50, papers, pushing, keyframes, ...; resumes if interrupted
	$(BIN)/mtrl study results/$* $(ARGS)

test: $(VENV)/.installed-test ## run the tests
	$(PYTEST) -m "not parity and not grid and not slow" $(ARGS)

test-parity: $(VENV)/.installed-test ## the long comparisons with independent implementations
	$(PYTEST) -m "parity or slow" $(ARGS)

test-grid: $(VENV)/.installed-test ## every combination of the methods
	$(PYTEST) -m grid $(ARGS)

test-faults: $(VENV)/.installed-test ## kill and damage training runs; figures in results/faults; resumes if interrupted
	$(BIN)/python -m tests.faults $(ARGS)

soak: $(VENV)/.installed-test ## train for 3 hours: is memory flat? figures in results/faults; resumes if interrupted
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults.soak $(ARGS)

lint: $(VENV)/.installed-test ## ruff and pyright
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-test ## let ruff fix and format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

docs: $(VENV)/.installed-docs ## build the documentation site: open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet $(ARGS)

pictures: $(VENV)/.installed-test $(VENV)/.installed-docs ## draw the pictures of the pages; screenshots need Chromium
	$(BIN)/python scripts/pictures.py

bench: $(VENV)/.installed-train ## time the updates and the environments
	$(BIN)/mtrl bench update $(ARGS)
	$(BIN)/mtrl bench envs $(ARGS)

check-image: $(VENV)/.installed-train ## build docker/mujoco in a folder, without an engine; needs root and debootstrap
	$(BIN)/python scripts/check_image.py --pip-args="$(PIP_ARGS)" $(ARGS)

bench-rivals: $(VENV)/.installed-bench ## time mtrl and its rivals; writes results/bench/rivals.json and its tables
	$(BIN)/mtrl bench rivals --json $(ARGS) > $(VENV)/rivals.json
ifeq ($(findstring --quick,$(ARGS)),)
	mv $(VENV)/rivals.json results/bench/rivals.json
	$(BIN)/python -m mtrl.bench.pages results/bench/rivals.json README.md docs/speed.md
else
	@echo "Rows of --quick are not kept in results/bench: see $(VENV)/rivals.json"
endif

bench-scale: $(VENV)/.installed-test ## time collection on Ray; writes results/bench/scale.json and its tables
	$(BIN)/mtrl bench scale --json $(ARGS) > $(VENV)/scale.json
ifeq ($(findstring --quick,$(ARGS)),)
	mv $(VENV)/scale.json results/bench/scale.json
	$(BIN)/python -m mtrl.bench.pages results/bench/scale.json docs/scale.md
else
	@echo "Rows of --quick are not kept in results/bench: see $(VENV)/scale.json"
endif

clean: ## remove the environment, builds and caches; runs/ stays
	rm -rf $(VENV) build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis
	find mtrl scripts tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.created:
	@command -v "$(PYTHON)" >/dev/null || { echo "mtrl needs Python 3.11 to 3.13; \`$(PYTHON)\` was not found. Name one: make PYTHON=python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; (3, 11) <= v[:2] <= (3, 13) or sys.exit("mtrl needs Python 3.11 to 3.13; `$(PYTHON)` is %d.%d. Name another: make PYTHON=python3.12" % v[:2])'
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "mtrl needs Python's venv, which \`$(PYTHON)\` lacks (on Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	"$(PYTHON)" -m venv $(VENV)
	@echo "Installing into $(VENV). This takes minutes, and about 1.5 GB with PyTorch's CPU build, or 5 GB with pip's usual one for Linux."
	@touch $@

$(VENV)/.installed-train: $(VENV)/.created $(DISTRIBUTION)
	$(PIP) --editable ".[video]"
	@touch $@

$(VENV)/.installed-results: $(VENV)/.created $(DISTRIBUTION)
	$(PIP) --editable ".[video,surgery,statistics,aux,vision,minari]"
	@touch $@ $(VENV)/.installed-train

$(VENV)/.installed-test: $(VENV)/.created $(DISTRIBUTION)
	$(PIP) --editable ".[dev,video,surgery,statistics,aux,vision,wandb,ray,minari]"
	@touch $@ $(VENV)/.installed-train $(VENV)/.installed-results

$(VENV)/.installed-bench: $(VENV)/.created $(DISTRIBUTION)
	$(PIP) --editable ".[video,surgery,bench]"
	@touch $@ $(VENV)/.installed-train

$(VENV)/.installed-docs: $(VENV)/.created $(DISTRIBUTION)
	$(PIP) --editable ".[docs]"
	@touch $@
