# One target directory outside of the checkout serves every verb, so that a fresh clone builds from what is there.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/millrace/target
# Tests at a time: most of them wait for processes that they have started, and the processor has time for more than one a core.
export RUST_TEST_THREADS ?= 6
CARGO := cargo
CLUSTER := e2e/cluster

.DEFAULT_GOAL := help
# Verbs of the cluster come after each other.
.NOTPARALLEL:
.PHONY: help build bench demo test simulate test-real lint deny generate ci cluster-check cluster-up cluster-install cluster-down cluster-test demo-cluster e2e

help: ## show this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

build: ## build all programs
	$(CARGO) build --workspace

demo: build ## run the main job here, kill one of its workers half-way, compare the results with an undisturbed run
	scripts/demo

test: ## run the tests that need nothing but cargo: loopback and folders
	$(CARGO) test --workspace

simulate: ## run the first SEEDS (1000) schedules of the simulation, each twice, or a single SEED
	$(if $(SEED),MILLRACE_TEST_SEED=$(SEED),MILLRACE_TEST_SEEDS=$(or $(SEEDS),1000)) $(CARGO) test --workspace --test jobs simulation::every -- --nocapture

test-real: ## run the tests on a real S3 server and Kafka broker, which are built once (root, Go, Java 17, Maven)
	$(CLUSTER)/check servers
	$(CLUSTER)/build versitygw kafka
	MILLRACE_TEST_S3=$$($(CLUSTER)/which versitygw)/versitygw MILLRACE_TEST_KAFKA=$$($(CLUSTER)/which kafka)/jars \
	  $(CARGO) test --workspace --test real

lint: ## check format and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --test real -- -D warnings

deny: ## check licences, sources and banned crates
	scripts/deny

bench: ## build for speed, time benchmark queries and recovery, and fail beyond the wanted figures (docs/performance.md)
	$(CARGO) build --release --package millrace
	bench/run; run=$$?; bench/checkpoint || run=1; bench/memory || run=1; bench/latency || run=1; bench/recovery && exit $$run

generate: ## write the generated files anew
	MILLRACE_REGENERATE=1 $(CARGO) test --workspace --quiet --lib --test manifests --test compile

ci: ## run everything that must hold before a change lands
	.ci/run

cluster-check: ## say what a cluster on this machine needs and what is missing
	$(CLUSTER)/check

cluster-up: cluster-check ## bring up Kubernetes, Kafka and S3 on this machine (root)
	$(CLUSTER)/up

cluster-install: build ## install this checkout's controller and runtime on the cluster, with the chart
	e2e/install

e2e: cluster-up cluster-install ## on the cluster: one job through all faults, its outputs compared row by row (E2E="--short" for three faults)
	e2e/cluster/enter $(CARGO_TARGET_DIR)/debug/millrace-e2e --folder $(CARGO_TARGET_DIR)/e2e $(E2E)

demo-cluster: cluster-up cluster-install ## the demo as pods on the cluster
	scripts/demo-cluster

cluster-down: ## take the cluster down; leaves nothing but the cache
	$(CLUSTER)/down

cluster-test: cluster-check ## try the test cluster itself: up over its own remains, twice, and nothing left after
	$(CLUSTER)/test
