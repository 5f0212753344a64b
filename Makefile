# Each target does its own set-up: a fresh clone needs Python >= 3.11 and nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
WORKERS ?= 2

# pip reads the pins from the environment, so that the isolated build of this package obeys them too.
export PIP_CONSTRAINT := $(CURDIR)/constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# One thread for each test worker: two workers on two cores.
TEST_THREADS := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1

.PHONY: train test lint format verify mutants bench docs clean

train: $(READY)  ## the main job: a few-shot learner on the built-in glyphs, trained and tested
	$(BIN)/metalearn train

test: $(READY)  ## every test
	$(TEST_THREADS) $(BIN)/python -m pytest -n $(WORKERS)

lint: $(READY)  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

verify: $(READY)  ## the planted-bug and oracle checks at full size
	$(TEST_THREADS) $(BIN)/python -m pytest tests/verification -n $(WORKERS) --hypothesis-profile=thorough

mutants: $(READY)  ## would the tests notice a slip? an hour of one core; SAMPLE= for less
	$(TEST_THREADS) $(BIN)/python -m tests.mutation --out verification/results/mutation.json \
		$(if $(SAMPLE),--sample $(SAMPLE))

bench: $(READY)  ## speed and memory
	$(BIN)/python -m pytest benchmarks --benchmark-only

docs: $(READY)  ## the site, in site/; warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis
