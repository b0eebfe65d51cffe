# Every target does its own set-up: a virtual environment with the locked versions.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup demo test chaos soak lint bench lock clean

setup: $(STAMP)

$(STAMP): pyproject.toml requirements.lock
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps -e .
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/eddy demo

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup

# resumes: what has a result in .chaos is not run again; SEED=7 runs one schedule
chaos: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED))

# kills a worker again and again, and watches the memory of one that nothing disturbs; resumes
soak: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak $(if $(RECORDS),--records $(RECORDS)) \
	  $(if $(KEYS),--keys $(KEYS)) $(if $(KILLS),--kills $(KILLS)) \
	  $(if $(DELIVERY),--delivery $(DELIVERY))

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/eddy bench throughput

lock: $(STAMP)
	{ sed -n 1,3p requirements.lock; $(BIN)/pip freeze --all --exclude pip --exclude-editable \
	  | sed -E '/^(#|-e |nvidia-|cuda-|triton==)/d; s/\+[a-z0-9.]+$$//'; } > requirements.lock.new
	mv requirements.lock.new requirements.lock

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .chaos
