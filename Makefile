# Every target makes what it needs; `make help` lists them.
#
#   make lab LAB_ARGS="--no-browser --port 8890"     anything that `jupyter lab` takes
#   make train TRAIN_ARGS="--help"                   anything that `llama_viz.training` takes
#   make test WORKERS=8                              tests at a time
#   make benchmarks PEERS=/path/to/python            one that has TransformerLens as well
#   make benchmarks LLAMA2C=/path/to/llama2.c        its checkout
#   make lab PYTHON=/path/to/python3.12              another Python for .venv

BIN := .venv/bin
LAB_ARGS ?=
TRAIN_ARGS ?=
WORKERS ?= 2

# The first of these that can make a virtual environment. requirements.lock is made with 3.11.
SUITABLE := import ensurepip, sys; sys.exit(sys.version_info < (3, 11))
CANDIDATES := python3.11 python3.12 python3.13 python3.14 python3
PYTHON ?= $(shell for python in $(CANDIDATES); do \
	"$$python" -c '$(SUITABLE)' 2>/dev/null && echo "$$python" && break; done)

# The kernel is that of .venv, whatever else the machine has.
unexport PYTHONHOME PYTHONPATH JUPYTER_PATH
export JUPYTER_PREFER_ENV_PATH := 1

# Tests run side by side, so each keeps to one core.
ONE_CORE := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
PYTEST := $(BIN)/python -m pytest
SIDE_BY_SIDE := -n $(WORKERS) --dist loadfile
# It trains, and measures how soon Stop is heard: nothing may run beside it.
ALONE := tests/browser/test_notebook_11.py

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: lab
lab: environment ## open JupyterLab on the first notebook
	$(BIN)/llama-viz lab $(LAB_ARGS)

.PHONY: test
test: lint browser ## check everything: style, types, units, notebooks, browser
	$(ONE_CORE) $(PYTEST) tests --ignore tests/browser $(SIDE_BY_SIDE)
	$(ONE_CORE) $(PYTEST) notebooks --nbval --nbval-current-env --nbval-cell-timeout=120 $(SIDE_BY_SIDE)
	$(ONE_CORE) $(PYTEST) tests/browser --ignore $(ALONE) $(SIDE_BY_SIDE)
	$(ONE_CORE) $(PYTEST) $(ALONE)

.PHONY: notebooks
notebooks: environment ## run all notebooks and store what they show
	$(BIN)/python notebooks/execute.py

.PHONY: figures
figures: environment ## the same, and write the figures' reference data anew
	LLAMA_VIZ_WRITE_FIGURES=1 $(BIN)/python notebooks/execute.py

# Programs are compared in turns within each of these; nothing else may run beside them.
PEERS ?= $(BIN)/python
LLAMA2C ?=
.PHONY: benchmarks
benchmarks: browser ## measure everything on a quiet machine, and write the tables of README.md
	PYTHONPATH=. $(PEERS) benchmarks/decoding.py $(if $(LLAMA2C),--llama2c $(LLAMA2C))
	PYTHONPATH=. $(PEERS) benchmarks/recording.py
	PYTHONPATH=. $(PEERS) benchmarks/startup.py
	$(BIN)/python benchmarks/length.py
	-PYTHONPATH=. $(PEERS) benchmarks/explorer_latency.py --store
	-$(BIN)/python benchmarks/long_context.py --store
	$(ONE_CORE) $(BIN)/python notebooks/execute.py --times
	$(BIN)/python benchmarks/report.py --write

.PHONY: train
train: environment ## train the tokenizer and the embedded models
	$(BIN)/python -m llama_viz.training $(TRAIN_ARGS)

.PHONY: lint
lint: environment ## check style and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python notebooks/execute.py --check

.PHONY: format
format: environment ## put the code in its form
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: lock
lock: suitable ## write requirements.lock anew, with the newest versions
	"$(PYTHON)" labconfig/environment.py --lock

.PHONY: clean
clean: ## remove the environment and everything else that make made
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	find . -name .ipynb_checkpoints -prune -exec rm -rf {} +

# Looks by itself whether there is anything to do.
.PHONY: environment
environment: suitable
	@"$(PYTHON)" labconfig/environment.py

.PHONY: browser
browser: environment
	@$(BIN)/python -m tests.browser.browser

.PHONY: suitable
suitable:
	@"$(PYTHON)" -c '$(SUITABLE)' 2>/dev/null || { \
		echo "llama_viz needs Python 3.11 or newer, with its venv module, on the PATH" >&2; \
		echo "(Debian and Ubuntu: apt install python3 python3-venv), or make PYTHON=/path/to/it" >&2; \
		exit 1; }
