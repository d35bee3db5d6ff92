# Every target makes .venv on its own when it is missing. Needed: Python 3.11 (with venv), make.
PYTHON ?= python3
BIN := .venv/bin
HOME_DIR := $(or $(AIRWORTHY_HOME),.airworthy)
PORT ?= 8080
USE_CASE ?= flights
# Where this is set, and containers often set it, each start of Python compiles what it imports anew:
# 5 s of CPU for pyflyte, half of a weather pipeline's. Git ignores what is compiled.
unexport PYTHONDONTWRITEBYTECODE
# Where wheels lie in a folder of their own (an offline mirror), uv is told; elsewhere nothing.
FIND_LINKS := $(if $(PIP_FIND_LINKS),--find-links "$(PIP_FIND_LINKS)")

.PHONY: demo test serve lint bench drills lock feast manifests redis postgres wrk nginx pushgateway java clean

.venv/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Airworthy needs Python 3.11 or later: make PYTHON=python3.11")'
	@echo "installing the pinned packages into .venv: takes minutes, once"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $$(grep '^uv==' requirements.lock)
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(FIND_LINKS) -r requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

demo: .venv/.installed  ## raw flights to a certified model that answered over HTTP
	$(BIN)/pyflyte run workflows/flights.py flights
	$(BIN)/python -m tasks.summary --check

serve: .venv/.installed  ## keep the champion of $(USE_CASE) up on $(PORT)
	$(BIN)/python -m serving.server --use-case $(USE_CASE) --champion --port $(PORT) --home $(HOME_DIR) --allow-development-key

test: .venv/.installed redis postgres nginx wrk pushgateway java .venv/spark/.installed
	$(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder

DRILLS := tests/drills tests/data/test_spark.py tests/data/test_properties.py tests/data/test_truncation.py tests/code/test_registry.py tests/code/test_segments.py tests/code/test_openapi.py

drills: .venv/.installed redis postgres nginx wrk pushgateway java .venv/spark/.installed  ## long forms: kills, a week's stream, a year on Spark
	AIRWORTHY_LONG_DRILLS=1 $(BIN)/python -m pytest -q $(DRILLS)

redis:  ## a redis-server for tests and benchmarks: installed from Debian where root lacks one
	@command -v redis-server >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends redis-server; } || \
		{ echo "redis-server is needed: install it (Debian: apt-get install redis-server)"; exit 1; }

postgres:  ## a PostgreSQL for the tests of sweeps: installed from Debian where root lacks one
	@PATH="$$PATH:$$(echo /usr/lib/postgresql/*/bin)" command -v postgres >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends postgresql; } || \
		{ echo "PostgreSQL is needed: install it (Debian: apt-get install postgresql)"; exit 1; }

wrk:  ## the load of benchmarks/serving.py: installed from Debian where root lacks it
	@command -v wrk >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends wrk; } || \
		{ echo "wrk is needed: install it (Debian: apt-get install wrk)"; exit 1; }

nginx:  ## the proxy of local releases: installed from Debian where root lacks one
	@PATH="$$PATH:/usr/sbin" command -v nginx >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends nginx-light; } || \
		{ echo "nginx is needed: install it (Debian: apt-get install nginx-light)"; exit 1; }

pushgateway:  ## takes a training's metrics in the tests: installed from Debian where root lacks one
	@command -v prometheus-pushgateway >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends prometheus-pushgateway; } || \
		{ echo "a Pushgateway is needed: install it (Debian: apt-get install prometheus-pushgateway)"; exit 1; }

java:  ## Spark's tests need one: installed from Debian where root lacks it; without it they are skipped
	@command -v "$${JAVA_HOME:+$$JAVA_HOME/bin/}java" >/dev/null || { test "$$(id -u)" = 0 && apt-get update -qq && \
		apt-get install -y -qq --no-install-recommends openjdk-17-jre-headless; } || \
		echo "no Java: the tests on Spark are skipped (Debian: apt-get install openjdk-17-jre-headless)"

# Flyte's Spark plugin, in a folder of its own: installed beside flytekit it slows each start.
.venv/spark/.installed: requirements-spark.lock .venv/.installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python $(FIND_LINKS) --no-deps --target $(@D) -r $<
	touch $@

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv/.installed redis wrk
	$(BIN)/python benchmarks/online.py
	$(BIN)/python benchmarks/features.py --quick
	$(BIN)/python benchmarks/serving.py --quick
	$(BIN)/python benchmarks/training.py --quick

lock: .venv/.installed  ## pin every version again; no hosts, no hashes, torch without its local tag
	$(BIN)/uv pip compile --quiet --upgrade pyproject.toml --extra train --extra serve --extra dev $(FIND_LINKS) \
		--no-annotate --no-header --no-emit-index-url --no-emit-find-links --python-version 3.11 -o requirements.lock
	sed -i 's/^\(torch==[0-9.]*\)+cpu$$/\1/' requirements.lock
	grep -o 'flytekitplugins-spark[^"]*' pyproject.toml | $(BIN)/uv pip compile --quiet --upgrade --no-deps - $(FIND_LINKS) \
		--no-annotate --no-header --no-emit-index-url --no-emit-find-links --python-version 3.11 -o requirements-spark.lock

feast: .venv/.installed  ## Feast's own command line on the flights features of the home
	$(BIN)/python -m feature_repo.repo flights
	$(BIN)/feast --chdir $(HOME_DIR)/feast/flights feature-views list

manifests: .venv/.installed  ## the golden manifests under deploy/
	$(BIN)/python -m serving.manifest deploy/kserve/flights.yaml
	$(BIN)/python -m serving.route deploy/kserve/flights-experiment.yaml
	$(BIN)/python -m serving.mirror deploy/kserve/flights-shadow.yaml

clean:
	rm -rf .airworthy .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
