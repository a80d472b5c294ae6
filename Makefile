# Commands of the project; each does the set-up that it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
CONSTRAINTS := $(wildcard constraints/python-$(VERSION).txt)
PADDLE_SERVING_VENV := .venv-paddle-serving
MLSERVER_VENV := .venv-mlserver
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test bench check paddle-serving mlserver hadoop-jars faults format charts constraints screenshots clean

help: ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(VENV)/.ready ## Make .venv from the committed constraints.

$(VENV)/.ready: pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS)) --editable '.[demo]' --group dev
	touch $@

demo: setup ## Train, upload, notice and serve a model through a real Airflow.
	$(BIN)/python -m airflow_serving_reload.demo

test: $(VENV)/.ready-for-tests paddle-serving mlserver hadoop-jars ## Run the tests, in two processes; WORKERS=3 in more.
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadgroup --max-worker-restart 0

$(VENV)/.ready-for-tests: $(VENV)/.ready
	$(BIN)/pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS)) --editable '.[hdfs,hdfs-native,s3,sftp]' --group test
	touch $@

bench: $(VENV)/.ready-for-tests hadoop-jars ## Measure everything; BENCH="stores polls --store ftp" only what it names.
	$(BIN)/python -m tests.bench $(BENCH)

# Without Maven the tests with a real HDFS are skipped, and say so.
hadoop-jars: $(VENV)/.ready-for-tests
	@! command -v mvn >/dev/null || $(BIN)/python -m tests.contract.hadoop

paddle-serving: $(PADDLE_SERVING_VENV)/.ready

# Its requirements contradict Airflow's, and most of them only serve parts that the launcher does not use.
$(PADDLE_SERVING_VENV)/.ready:
	$(PYTHON) -m venv $(PADDLE_SERVING_VENV)
	$(PADDLE_SERVING_VENV)/bin/pip install --quiet --no-deps paddle_serving_server==0.9.0
	$(PADDLE_SERVING_VENV)/bin/pip install --quiet 'numpy<3' pyyaml pytest 'protobuf<3.21'
	touch $@

# It contradicts Airflow's requirements as well. There is none for later Pythons; the tests with it then say so.
mlserver: $(if $(filter 3.11 3.12,$(VERSION)),$(MLSERVER_VENV)/.ready)

$(MLSERVER_VENV)/.ready: constraints/mlserver.txt
	$(PYTHON) -m venv $(MLSERVER_VENV)
	$(MLSERVER_VENV)/bin/pip install --quiet --requirement constraints/mlserver.txt
	touch $@

faults: $(VENV)/.ready-for-tests ## Attack all promises (root); FAULTS="kills power" by some of the campaigns.
	$(BIN)/python -m tests.faults $(FAULTS)

check: setup ## Lint and check types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## Format the code.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

screenshots: setup ## Take the pictures of the README from the demo at URL=..., in headless Chromium.
	$(BIN)/pip install --quiet --group docs
	$(BIN)/python docs/screenshots.py $(URL)

charts: setup ## Draw the charts of docs/performance.md from the figures in docs/figures.
	$(BIN)/pip install --quiet --group docs
	$(BIN)/python docs/charts.py

constraints: ## Resolve the newest versions anew for $(PYTHON).
	$(PYTHON) constraints/resolve.py

clean: ## Remove what the other commands made.
	rm -rf $(VENV) $(PADDLE_SERVING_VENV) $(MLSERVER_VENV) .pytest_cache .mypy_cache .ruff_cache
