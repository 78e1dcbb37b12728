# make demo        trains, evaluates and draws a model on the built-in faces; downloads packages only
# make lint        checks format and style
# make test        all tests
# make test-quick  the tests of less than half a minute
# make test-all    all tests, with more repetitions (TWODAL_TEST_ALL=1)
# make test-core   quick tests of losses, network, step, checkpoints and export, for a second version of Python:
#                  make test-core PYTHON=python3.13 VENV=.venv13
# make test-onnx   the export to ONNX, with an environment of its own (onnx_env)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/demo
# Number of test workers; each may use about 3 GB.
WORKERS ?= 2
CORE := tests/losses_test.py tests/forward_test.py tests/models/resnet_test.py tests/training/train_step_test.py \
	tests/checkpointing/checkpoint_test.py tests/export/export_network_test.py

.PHONY: demo lint test test-quick test-all test-core test-onnx clean

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

lint: $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# Tests that share a fixture run on one worker (tests/conftest.py).
test: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --dist=loadgroup

test-quick: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --dist=loadgroup -m "not slow"

test-all: $(VENV)/.test
	TWODAL_TEST_ALL=1 $(BIN)/python -m pytest -n $(WORKERS) --dist=loadgroup

test-core: $(VENV)/.test
	$(BIN)/python -m pytest -n $(WORKERS) --dist=loadgroup -m "not slow" $(CORE)

onnx_env/.installed: requirements-onnx.txt
	test -x onnx_env/bin/python || $(PYTHON) -m venv onnx_env
	onnx_env/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-onnx.txt
	touch $@

test-onnx: onnx_env/.installed $(VENV)/.test
	TWODAL_ONNX_PYTHON=onnx_env/bin/python $(BIN)/python -m pytest tests/export -k onnx

clean:
	rm -rf $(VENV) onnx_env runs
