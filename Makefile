# make train    set up, train on the embedded corpus, evaluate, export, translate
# make test     set up, lint, type-check, test
#               proof, proof-part: all that CI has no time for, and a tenth of it
#               test-legacy, test-old: the resume tests on tf_keras, TensorFlow 2.19
#               test-tpu-client: the TPU API's client, in an environment of its own
# Both do all the set-up on a machine with git, make and Python 3.10 to 3.13.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

# The run directory follows from the flags: --run-dir, or runs/embedded-PRESET.
flag = $(patsubst --$(1)=%,%,$(lastword $(filter --$(1)=%,$(subst --$(1) ,--$(1)=,$(ARGS)))))
PRESET := $(or $(call flag,preset),tiny)
RUN_DIR := $(or $(call flag,run-dir),runs/embedded-$(PRESET))
RECORDS := $(or $(call flag,records),$(RUN_DIR)/records)
BEAM ?= 4
EVAL_ARGS ?=

# The resume tests, which must hold with both Keras and with the oldest TensorFlow too.
RESUME_TESTS := tests/resume/test_fit_resume.py tests/crash/test_fit_killed.py \
    tests/resume/test_other_objects.py tests/unit/test_resumable_iterator.py \
    tests/unit/test_state_objects.py
# All that CI has no time for is left out: MARKS="not proof" runs the slow ones too.
MARKS ?= not slow and not proof and not tpu
SELECT ?=
# Most tests wait for processes of their own, so as many run at once as there are
# processors (eight at most: each worker imports TensorFlow). A file's tests stay
# together, for what they share. PARALLEL= runs them one after another, as the slow ones
# and the proof always are: these keep several processors busy themselves.
PARALLEL ?= -n auto --maxprocesses 8 --dist loadfile
# Which share of the proof .ci/run takes: K/N, or auto/N, chosen by the commit's hash.
PART ?= auto/10
OLD := $(VENV)-old
TPU_CLIENT := $(VENV)-tpu-client

.PHONY: golden-run proof-part train test test-slow test-legacy test-old test-tpu-client proof lint format clean help

help:
	@sed -n 's/^# //p' Makefile | head -6

train: $(VENV)/installed
	$(BIN)/python scripts/train_translation.py --run-dir $(RUN_DIR) $(ARGS)
	$(BIN)/python scripts/export_model.py --run-dir $(RUN_DIR) --records $(RECORDS)
	$(BIN)/python scripts/evaluate_translation.py --model $(RUN_DIR)/export \
	    --records $(RECORDS) --beam $(BEAM) --show 5 $(EVAL_ARGS)

test: $(VENV)/installed-test lint
	$(BIN)/python -m pytest $(PARALLEL) $(TEST_ARGS)

test-slow: $(VENV)/installed-test
	$(BIN)/python -m pytest -m "slow and not proof and not tpu" $(TEST_ARGS)

# The resume tests on tf_keras.
test-legacy: $(VENV)/installed-test
	TF_USE_LEGACY_KERAS=1 $(BIN)/python -m pytest -m "$(MARKS)" $(SELECT) $(RESUME_TESTS)

# The resume tests on TensorFlow 2.19, with Keras 3 and with tf_keras.
test-old: $(OLD)/installed-test
	$(OLD)/bin/python -m pytest -m "$(MARKS)" $(SELECT) $(RESUME_TESTS)
	TF_USE_LEGACY_KERAS=1 $(OLD)/bin/python -m pytest -m "$(MARKS)" $(SELECT) $(RESUME_TESTS)

# The tests of cloud-tpu-client, installed as the project advises, beside gcsfs.
test-tpu-client: $(TPU_CLIENT)/installed
	$(TPU_CLIENT)/bin/python -c "import cloud_tpu_client, gcsfs"
	$(TPU_CLIENT)/bin/python -m pytest tests/contract/test_tpu_client.py

$(TPU_CLIENT)/installed: setup.cfg
	$(PYTHON) -m venv $(TPU_CLIENT)
	$(TPU_CLIENT)/bin/python -m pip install --quiet "google-api-python-client>=2" \
	    oauth2client absl-py "gcsfs>=2025.3" google-crc32c packaging "rich>=13.7" \
	    "tenacity>=9" "typer>=0.15" "hypothesis>=6.100" "pytest>=8.3" \
	    "pytest-timeout>=2.3"
	$(TPU_CLIENT)/bin/python -m pip install --quiet --no-deps "cloud-tpu-client==0.10"
	touch $@

# Kills by system call need strace: installed where that is possible, and without it
# their tests fail.
proof: $(VENV)/installed-test
	command -v strace >/dev/null || apt-get install -y strace || \
	    { apt-get update && apt-get install -y strace; } || true
	$(BIN)/python -m pytest -m "proof and not tpu" $(TEST_ARGS)

# A share of the proof, another one for each commit; says which.
proof-part: $(VENV)/installed-test
	$(BIN)/python -m pytest -m "proof and not tpu" --proof-part=$(PART) $(TEST_ARGS)

# The run directory under tests/golden, after a change of the checkpoint format.
golden-run: $(VENV)/installed-test
	PYTHONPATH=.:tests $(BIN)/python -m helpers.make_golden_run

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The pip that comes with Python 3.10 had not found a set of packages in ten minutes.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25"

# A stamp is written only after pip succeeded, so an interrupted install is repeated.
$(VENV)/installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/installed-test: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@ $(VENV)/installed

$(OLD)/installed-test: setup.cfg pyproject.toml
	$(PYTHON) -m venv $(OLD)
	$(OLD)/bin/python -m pip install --quiet --upgrade "pip>=25"
	$(OLD)/bin/python -m pip install --quiet --editable ".[test]" \
	    "tensorflow==2.19.*" "tensorflow-text==2.19.*" "tf-keras==2.19.*"
	touch $@

clean:
	rm -rf $(VENV) $(OLD) $(TPU_CLIENT) .pytest_cache .mypy_cache .ruff_cache
