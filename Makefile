# Two commands do everything, set-up included: `make demo` and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo run test lint bench bench-ingest bench-audit bench-web bench-replay screenshots soak drill fuzz clean

$(STAMP): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $$(command -v $(PYTHON) || command -v python3) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	tests/integration/partners/install-dicomweb-client
	touch $@

demo: $(STAMP)
	$(BIN)/python -m training.demo

run: $(STAMP)
	$(BIN)/iap-node serve --config config.yaml

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# one process more than processors: many tests wait for others' processes and disks
test: lint
	$(BIN)/python -m pytest -n $$(($$(nproc) + 1)) --dist loadgroup

bench: bench-ingest bench-audit bench-web

# ROUNDS=5, PREFILLED=1 (beside an archive of ten million rows), ARGUMENTS='--receivers node-strict,storescp' and the like
bench-ingest: $(STAMP)
	tests/benchmarks/ingest/install-peers
	$(BIN)/python -m tests.benchmarks.ingest --rounds $(or $(ROUNDS),5) $(if $(PREFILLED),--prefilled) $(ARGUMENTS)

# ROUNDS=3; mrQA beside the node, in an environment of its own under build/
bench-audit: $(STAMP)
	tests/benchmarks/audit/install-peers
	$(BIN)/python -m tests.benchmarks.audit --rounds $(or $(ROUNDS),3) --write-doc $(ARGUMENTS)

# server time of the console's pages over a million simulated instances, on SQLite and PostgreSQL
bench-web: $(STAMP)
	$(BIN)/python -m tests.benchmarks.web

# time and memory of `iap-node replay` over a hundred thousand judged series, simulated
bench-replay: $(STAMP)
	$(BIN)/python -m tests.benchmarks.replay $(ARGUMENTS)

# the images of the README, of simulated data
screenshots: $(STAMP)
	mkdir -p docs/images
	IAP_NODE_SCREENSHOTS=$(CURDIR)/docs/images $(BIN)/python -m pytest -q tests/acceptance/test_console.py

# the crash drill with new seeds: kill -9 and power cuts until the time is over
SOAK_MINUTES ?= 30
soak: $(STAMP)
	$(BIN)/python -m tests.acceptance.drill soak --minutes $(SOAK_MINUTES) $(if $(SOAK_SEED),--seed $(SOAK_SEED))

# the delivery drill: SERIES=1000 simulated series to ten destinations at fault, workers killed KILLS=100 times
drill: $(STAMP)
	$(BIN)/python -m tests.acceptance.drill deliver --series $(or $(SERIES),1000) --kills $(or $(KILLS),100) $(if $(SEED),--seed $(SEED))

# coverage-guided, SECONDS for each target, then hostile peers by the thousand; corpora and findings in build/fuzz
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz --seconds $(or $(SECONDS),60)
	IAP_NODE_HOSTILE_CONVERSATIONS=2000 IAP_NODE_HOSTILE_FRAGMENTS=1000000 IAP_NODE_HOSTILE_SEED=$$(date +%s) \
	  $(BIN)/python -m pytest tests/integration/listener -q -s -k hostile

clean:
	rm -rf build dist *.egg-info var
