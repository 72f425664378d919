# make demo | demo-real | demo-families | test | test-distributed | test-slow | test-models | test-real
# make lint | browser | picture | models-table | clean
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# pip would compile one file after the other, tests of packages too: 60 s instead of 20. Packages
# hold files for other Pythons that can't be compiled here; pip passes over them as well.
COMPILE := $(BIN)/python -W ignore -m compileall -qq -j 0 -x '/tests?/' $(VENV)/lib || true

# vLLM loads libnuma and compiles its graphs with a C++ compiler
REAL := slurm-wlm munge libnuma1 g++
VLLM_READY := .venv-vllm/.ready

.PHONY: demo demo-real demo-families test test-distributed test-slow test-models test-real
.PHONY: lint browser picture models-table clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt torch setuptools wheel
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable '.[dev]'
	$(COMPILE)
	touch $(READY)

# The embedded tiny model learns to look up: heads emerge, are taken out, and come back.
demo: $(READY)
	$(BIN)/headlab demo experiment=lookup

# SFT and GRPO side by side, on SmolLM2-135M-Instruct and problems from reasoning-gym.
demo-real: $(READY)
	$(BIN)/headlab demo experiment=smollm2

# Other families from random weights, a minute each: a mixture of experts, a hybrid of linear and
# gated attention, a GPT-NeoX. A second call goes on, or trains nothing.
demo-families: $(READY)
	set -e; for model in tiny_moe tiny_hybrid tiny_neox; do \
	  $(BIN)/headlab sft experiment=tiny_families model=$$model resume=auto; done

# Two workers of one thread each; a test by hand needs none: python -m pytest tests/...
test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Runs of several processes or in one of their own: ZeRO 1 to 3, Slurm with stand-ins, runs that are
# killed and go on.
test-distributed: $(READY)
	$(BIN)/python -m pytest -m 'distributed and not slow' -n 2 --dist loadfile

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

# Tiny models of all families of transformers: the anatomy found and proved at every edge.
test-models: $(READY)
	$(BIN)/python -m pytest -m models -n 2 --dist worksteal tests/families

# Against a real Slurm, W&B and hub servers on loopback, and a real vLLM for CPUs (4 GB, in an
# environment of its own). Debian, as root. Three workers, as they wait most of the time.
test-real: $(READY) $(if $(HEADLAB_VLLM_PYTHON),,$(VLLM_READY))
	dpkg -s $(REAL) > /dev/null 2>&1 || apt-get install -y --no-install-recommends $(REAL) || \
	  (apt-get update && apt-get install -y --no-install-recommends $(REAL))
	$(BIN)/python -m pytest -m real -n 3 --dist loadfile tests/real

# one that broke off on the way is made anew
$(VLLM_READY): tests/real/vllm_environment.sh
	rm -rf .venv-vllm
	PYTHON=$(PYTHON) sh tests/real/vllm_environment.sh .venv-vllm
	touch $(VLLM_READY)

# Chromium, for the tests of the report page; without a browser they are skipped. Debian, as root.
browser:
	command -v chromium || apt-get install -y chromium || (apt-get update && apt-get install -y chromium)

# The README's picture, from the report of the demo.
picture: demo browser
	$(BIN)/python -m docs.picture runs/report-lookup-sft-seed0-lookup-grpo-seed0.html docs/report.png

# The table of docs/models.md and of `headlab models`, from the same proofs as `make test-models`.
models-table: $(READY)
	$(BIN)/python -m tests.support.families.table

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf runs .mypy_cache .ruff_cache .pytest_cache
