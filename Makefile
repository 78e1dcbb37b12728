# make demo   trains, measures and draws a model on the built-in faces; nothing to download but packages
# make test   all tests (quick ones first)
# make test-all   all tests, with ten times as many damaged files for each reader of untrusted files
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/demo
# Workers of the test runner; each may use about 3 GB.
WORKERS ?= 2

.PHONY: demo test test-all test-quick clean

$(VENV)/.runtime: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@

$(VENV)/.test: requirements-test.txt $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-test.txt
	touch $@

demo: $(VENV)/.runtime
	$(BIN)/python -m twodal_jax.main --config=configs/demo.py --workdir=$(WORKDIR)

test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --dist=worksteal

test-all: $(VENV)/.test
	TWODAL_TEST_ALL=1 $(BIN)/python -m pytest -n $(WORKERS) --dist=worksteal

test-quick: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --dist=worksteal -m "not slow"

clean:
	rm -rf $(VENV) runs
