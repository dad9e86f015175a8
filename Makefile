.DEFAULT_GOAL := help
.PHONY: help setup demo test test-cpus test-slow test-tf check regress format docs release-check leaderboard report clean lock

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
RUNS ?= reports/runs
NUMERIC := $(BIN)/python -m pytest -n 2 --dist loadfile -m "numeric and not slow and not gpu and not network"

help:  ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## Create .venv with the pinned dependencies and this package

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "satbench needs Python 3.11 or newer; try make PYTHON=python3.12" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -c 'import uv' 2>/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY)  ## Train ReLU and two smooth twins on digits, attack all, write reports/demo/
	$(BIN)/satbench demo

test: $(READY)  ## Run the tests but the slow ones and those that need a GPU or the network
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-cpus: $(READY)  ## Repeat the numeric tests as older processors compute, and with two threads
	OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(NUMERIC)
	OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(NUMERIC)

test-slow: $(READY)  ## Run the slow tests: whole AutoAttacks, every trust network, the published anchors; an hour
	$(BIN)/python -m pytest -m slow --timeout 0

test-tf: $(READY) .venv-tf/.ready  ## Compare with TensorFlow, installed in .venv-tf (1.5 GB, and 1 GB in build/)
	PYTHONPATH=tests TF_CPP_MIN_LOG_LEVEL=3 TF_ENABLE_ONEDNN_OPTS=0 .venv-tf/bin/python -m tf_reference.make_reference \
		build/tf-reference .venv/lib/python3*/site-packages/foolbox/data/imagenet_*.jpg
	$(BIN)/python -m pytest -m slow tests/test_against_tensorflow.py

.venv-tf/.ready: | $(READY)
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venv-tf
	$(BIN)/uv pip install --quiet --python .venv-tf/bin/python tensorflow-cpu==2.21.0
	@touch $@

check: $(READY)  ## Lint, types, layers, and the committed leaderboards
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_layers.py
	$(BIN)/satbench leaderboard check
	$(BIN)/python docs/methods.py --check
	$(BIN)/python docs/attacks.py --check

regress: $(READY)  ## Measure the quick suite and compare with its baseline; under a minute on two cores
	$(BIN)/satbench check

docs: $(READY)  ## Rebuild docs/methods.md and docs/attacks.md, and the site of docs/ in build/site
	$(BIN)/python docs/methods.py
	$(BIN)/python docs/attacks.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --strict

release-check: $(READY)  ## Build wheel and sdist, install each in a folder elsewhere, and run it
	$(BIN)/python -m pytest -q -m slow tests/test_wheel.py

format: $(READY)  ## Format the code and apply the linter's fixes
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

leaderboard: $(READY)  ## Rebuild the pages of leaderboards/ from its committed files of runs
	$(BIN)/satbench leaderboard build

report: $(READY)  ## Make a page of the runs below reports/runs (or make report RUNS=FOLDER)
	$(BIN)/satbench report $(RUNS)

lock: $(READY)  ## Resolve the dependencies anew; wandb and mlflow (35 packages) are left to who tracks with them
	$(BIN)/uv pip compile --quiet --universal --extra dev --extra docs --generate-hashes --no-emit-index-url --no-header \
		--upgrade pyproject.toml --output-file requirements.lock

clean:  ## Remove the environment, caches and generated runs
	rm -rf .venv .venv-tf .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist reports/demo reports/runs reports/report
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
