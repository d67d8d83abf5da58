# make demo | test | check | quick | proofs | gpu-test | gpu-bench | lint-fix | golden | generated | docs | picture |
# bench | fuzz | chaos | cluster-token | cluster-test | clean.
# Each creates .venv if it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORE ?= opsctl-store
# Two processes of one thread each, since more threads would compete for the cores. Tests in WHOLE in tests/conftest.py,
# which start clusters or hosts, run one after the other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup
PIP := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: demo test quick proofs gpu-test gpu-bench check lint-fix golden generated docs picture bench fuzz chaos cluster-token cluster-test clean

demo: $(VENV)/.installed
	$(BIN)/opsctl sweep sweeps/quickstart.yaml --store $(STORE)
	@echo
	@echo "Browse the runs:    $(BIN)/opsctl ui --store $(STORE)"
	@echo "Change the sweep:   $(BIN)/opsctl sweep sweeps/quickstart.yaml --store $(STORE) --set seed=[3]"

test: check
	$(PYTEST)

quick: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow and not proof and not chaos and not cluster"

# Long proofs: memory over many trainings and large data sets, AutoAttack in full. About 10 minutes.
proofs: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m proof tests

# What runs on a GPU: tests of a few minutes, then how fast it is and what published results come to.
gpu-test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/gpu

gpu-bench: $(VENV)/.installed-dev
	@test -n "$(DATA)" || { echo "make gpu-bench DATA=DIR, with CIFAR-10 as Parquet files in DIR"; exit 2; }
	$(BIN)/python benchmarks/gpu.py --data $(DATA) --out benchmarks/results/gpu.jsonl

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

lint-fix: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

golden: $(VENV)/.installed-dev
	$(BIN)/python -m tests.golden

# The documentation pages and the JSON schema that are generated from the code.
generated: $(VENV)/.installed-dev
	$(BIN)/python -m docs.generate

# Writes docs/_build/html/index.html; warnings are errors.
docs: $(VENV)/.installed-dev
	$(BIN)/python -m sphinx -b html -W --keep-going docs docs/_build/html

picture: $(VENV)/.installed
	$(BIN)/opsctl report sweeps/quickstart.yaml --store $(STORE) --format svg > docs/quickstart.svg
	$(BIN)/opsctl show digits-em-ops --store $(STORE) --picture docs/poison.png

bench: $(VENV)/.installed-dev
	@test -n "$(DATA)" || { echo "make bench DATA=DIR, with CIFAR-10 as Parquet files in DIR"; exit 2; }
	$(BIN)/python benchmarks/precision.py
	$(BIN)/python benchmarks/augment.py
	$(BIN)/python benchmarks/attack.py --data $(DATA)
	$(BIN)/python benchmarks/train_step.py --data $(DATA)
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/trials.py
	$(BIN)/python benchmarks/one_trial.py
	$(BIN)/python benchmarks/replan.py
	$(BIN)/python benchmarks/tracking.py
	$(BIN)/python benchmarks/ops_search.py --data $(DATA)
	$(BIN)/python benchmarks/em_round.py --data $(DATA)
	$(BIN)/python benchmarks/closed_form.py

# TIMES as many malformed inputs as in `make test`; 24 times take about an hour.
fuzz: $(VENV)/.installed-dev
	OPSCTL_FUZZ=$(or $(TIMES),24) OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/fuzz -s

chaos: $(VENV)/.installed-dev
	OPSCTL_CHAOS_RUNS=$(or $(RUNS),3) OPSCTL_CHAOS_RESULTS=benchmarks/results/chaos.jsonl \
	    $(BIN)/python -m pytest -m chaos tests -s

# The token of Ray clusters: created once, readable only by you; see docs/cluster.md.
cluster-token:
	@umask 077; mkdir -p ~/.ray; test -s ~/.ray/auth_token || \
	    $(PYTHON) -c 'import secrets; print(secrets.token_hex(32), end="")' > ~/.ray/auth_token
	@chmod 700 ~/.ray; chmod 600 ~/.ray/auth_token; echo "the token is in ~/.ray/auth_token"

cluster-test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m cluster tests/cluster

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist docs/_build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and f"opsctl needs Python 3.11 or later, found {v[0]}.{v[1]}; try make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[dev]'
	touch $@ $(VENV)/.installed
