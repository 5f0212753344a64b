# Each target does its own set-up: a fresh clone needs Python >= 3.11 and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2

# pip reads the pins from the environment, so that the isolated build of this package obeys them too.
# A relative path: pip takes a space in it for the end of one file's name.
export PIP_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# One thread for each test worker: two workers on two cores.
TEST_THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
# A test that neither ends nor lets itself be interrupted: every thread's stack, and its name among the failures.
WATCHED := -o faulthandler_timeout=600 -o faulthandler_exit_on_timeout=true

.PHONY: train test lint format verify mutants bench bench-check bench-baseline bench-gpu docs clean
.PHONY: experiments-omniglot experiments-cifarfs

train: $(READY)  ## the main job: a few-shot learner on the built-in glyphs, trained and tested
	$(BIN)/metalearn train

test: $(READY)  ## the verification suite at small size, then every test
	$(TEST_THREADS) $(BIN)/python -m verification run --size small --workers $(WORKERS) --out build/verification-small
	$(TEST_THREADS) $(BIN)/python -m pytest -n $(WORKERS) $(WATCHED)

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

verify: $(READY)  ## every promise at full size, with its report in build/verification
	$(TEST_THREADS) $(BIN)/python -m verification run --size full --workers $(WORKERS) --out build/verification

mutants: $(READY)  ## would the tests notice a slip? hours of one core; SAMPLE= for less
	$(TEST_THREADS) $(BIN)/python -m tests.mutation --out results/verification/mutation.json \
		$(if $(SAMPLE),--sample $(SAMPLE))

experiments-omniglot: $(READY)  ## 20-way and 5-way 1-shot; an hour of a core, goes on if stopped
	$(if $(SOURCE),$(BIN)/metalearn prepare omniglot --source $(SOURCE))
	$(BIN)/python -m experiments omniglot

experiments-cifarfs: $(READY)  ## methods from three seeds; hours of a core, goes on if stopped
	$(if $(SOURCE),$(BIN)/metalearn prepare cifar-fs --allow-partial --source $(SOURCE))
	$(BIN)/python -m experiments cifar-fs

bench: $(READY)  ## speed and memory; QUICK=1 for a minute's selection
	$(TEST_THREADS) $(BIN)/python -m pytest benchmarks --benchmark-only $(if $(QUICK),--quick)

bench-check: $(READY)  ## figures that don't depend on the machine, against benchmarks/baseline.json
	$(TEST_THREADS) $(BIN)/python -m benchmarks.gate

bench-baseline: $(READY)  ## record them anew, on purpose
	$(TEST_THREADS) $(BIN)/python -m benchmarks.gate --record

bench-gpu: $(READY)  ## the whole table on a GPU, in benchmarks/results
	$(BIN)/python -m benchmarks.steps --device cuda --out benchmarks/results/steps-cuda.json
	$(BIN)/python -m benchmarks.published --device cuda --out benchmarks/results/published-cuda.json

docs: $(READY)  ## the site, in site/; a warning (a broken link, say) fails, which --quiet would keep from being counted
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
