# make help says what there is. Everything is set up in .venv on first use.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export RAY_AUTH_MODE ?= token
# libraries that would otherwise ask the network for news, or phone home
export HF_HUB_OFFLINE ?= 1
export RAY_USAGE_STATS_ENABLED ?= 0
export MLFLOW_DISABLE_TELEMETRY ?= true

.DEFAULT_GOAL := help
.PHONY: infra-scan lock help setup llama demo pocket sandbox-demo corpus-large cluster-check test test-full check fast ui wheel clean

help: ## show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

setup: $(VENV)/.ready ## make .venv with the exact pins of constraints.txt

# What decides the environment, as one number that .ready holds. Dates say nothing: a clone's files are all new. Nor does
# the rest of pyproject.toml: settings of ruff or pytest install nothing
NEEDED := $(shell { grep -v '^\#' constraints.txt; awk '/^\[/ {part = $$0} part ~ /build-system|optional-dependencies|scripts/ || /^requires-python/ {print} \
  /^dependencies = \[/, /^\]/ {print}' pyproject.toml | sed 's/ *\#.*//'; } | sha256sum | cut -c 1-16)
ifneq ($(NEEDED),$(shell cat $(VENV)/.ready 2>/dev/null))
.PHONY: $(VENV)/.ready
endif

$(VENV)/.ready:
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 13) else "Trunkline needs Python 3.11 or 3.12; this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	@# torch first and alone, so that no other package asks for another build of it
	$(BIN)/python -m pip install -q --disable-pip-version-check $$(grep -E '^torch==' constraints.txt)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,infra,server]'
	@echo $(NEEDED) > $@

# compiled for this machine's processor, once: the wheel stays where another environment finds it
WHEELS ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/trunkline/wheels
# GCC 12 gets the AMX instructions of newer Xeons wrong, and llama.cpp dies by them: it computes without
NO_AMX := $(shell echo | $(CXX) -x c++ -mno-amx-tile -mno-amx-int8 -mno-amx-bf16 -fsyntax-only - 2>/dev/null && echo -mno-amx-tile -mno-amx-int8 -mno-amx-bf16)
LLAMA := $(shell grep -E '^llama-cpp-python==' constraints.txt)

llama: setup ## llama.cpp, which runs GGUF files and makes k-quants: some ten minutes of compiling once; needs a C++ compiler and CMake
	@$(BIN)/python -c 'import importlib.metadata as m, sys; sys.exit(m.version("llama-cpp-python") != "$(LLAMA)".partition("==")[2])' 2>/dev/null || { \
	  mkdir -p $(WHEELS) && \
	  { ls $(WHEELS)/llama_cpp_python-$(lastword $(subst ==, ,$(LLAMA)))-*.whl >/dev/null 2>&1 || \
	    CMAKE_ARGS="-DLLAVA_BUILD=OFF -DCMAKE_C_FLAGS='$(NO_AMX)' -DCMAKE_CXX_FLAGS='$(NO_AMX)' $$CMAKE_ARGS" $(BIN)/python -m pip wheel -q --disable-pip-version-check --no-deps -w $(WHEELS) $(LLAMA); } && \
	  $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt $(WHEELS)/llama_cpp_python-$(lastword $(subst ==, ,$(LLAMA)))-*.whl; }

demo: setup ## run the whole recipe on real text: about 10 minutes on 2 cores
	@$(BIN)/python -m workflows.recipe +experiment=demo

sandbox-demo: setup ## a laptop's wind tunnel: seven studies of small models on real text, one page: 22 minutes on 2 cores
	@$(BIN)/python -m workflows.recipe +experiment=wind_tunnel
	@$(BIN)/python -m workflows.sandbox +experiment=wind_tunnel

# the lowest priority: it takes what nobody else wants of the machine
pocket: setup ## a model that is no toy, from raw text to a GGUF: a night on 2 cores, 270 MB of downloads; needs apt-get and npm; go on with the same command
	@nice -n 19 $(BIN)/python -m benchmarks.large warc
	@nice -n 19 $(BIN)/python -m workflows.recipe +experiment=pocket

corpus-large: setup ## 300 MB of real text, then 3 GB with planted near-copies: about 15 minutes on 2 cores, 270 MB of downloads; needs apt-get and npm
	@$(BIN)/python -m benchmarks.large warc
	@$(BIN)/python -m workflows.corpus corpus=large name=large
	@for size in 300 3000; do \
	  $(BIN)/python -m benchmarks.large multiply --megabytes $$size --name copies-$$size && \
	  $(BIN)/python -m benchmarks.large watch corpus=copies name=copies-$$size && \
	  $(BIN)/python -m benchmarks.large check --name copies-$$size || exit 1; \
	done

cluster-check: setup ## what is wrong with an AWS cluster or the way to it: ARGS="instance_type=p5.48xlarge max_nodes=4"
	@$(BIN)/python -m workflows.cluster_check $(ARGS)

# one test waits for a server while another computes: three lanes keep two cores busy
LANES ?= 3

test: setup ## all tests but campaigns, with real Ray, DeepSpeed, MLflow and S3: some 30 minutes on 2 cores
	@$(BIN)/python -m pytest -n $(LANES)

test-full: llama ## and the campaigns too, such as twenty kills, and GGUF files in llama.cpp
	@$(BIN)/python -m pytest -n $(LANES) --campaigns

check: setup ## ruff, mypy and the fast tests: run it before every commit
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/python -m pytest tests/unit -n 2 -m 'not slow' -x --durations=5

infra-scan: ## checkov over infra/terraform, in an environment of its own, since it pins old packages: two minutes the first time
	@test -x .venv-checkov/bin/checkov || { $(PYTHON) -m venv .venv-checkov && .venv-checkov/bin/pip install -q --disable-pip-version-check checkov==3.3.30; }
	@.venv-checkov/bin/checkov -d infra/terraform --config-file infra/terraform/.checkov.yaml

lock: setup ## requirements.lock, by whose checksums the nodes of a cluster install; after every change of constraints.txt
	@test -x .venv-lock/bin/uv || { $(PYTHON) -m venv .venv-lock && .venv-lock/bin/pip install -q --disable-pip-version-check uv==0.13.9; }
	@$(BIN)/python infra/lock.py .venv-lock/bin/uv

ui: setup ## MLflow on this project's runs, opened on the training runs: ARGS="of=anneal/demo"
	@$(BIN)/python -m workflows.ui $(ARGS)

# setuptools would pack as well what an earlier build left in build/
wheel: setup ## dist/trunkline-*.whl, for `pip install -c constraints.txt dist/trunkline-*.whl`
	@rm -rf build *.egg-info && $(BIN)/python -m pip wheel -q --disable-pip-version-check --no-deps -w dist . && rm -rf build && ls dist/*.whl

clean: ## remove .venv and caches; the store stays
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
