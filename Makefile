# embedfleet: `make run` and `make test` need Go, a C compiler, npm and pip, and bring the rest themselves.
# Works with GNU make 3.81, which is what macOS has.
SHELL := /bin/bash
.DEFAULT_GOAL := help

include scripts/versions.env

# What the user said, before the defaults below: set-up does not bring what is replaced.
GIVEN_MODEL := $(MODEL)
GIVEN_LIB := $(ONNXRUNTIME_LIB)

ifeq ($(strip $(EMBEDFLEET_CACHE)),)
EMBEDFLEET_CACHE := $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/embedfleet
endif
ifeq ($(strip $(MODEL)),)
MODEL := $(EMBEDFLEET_CACHE)/models/$(MODEL_NAME)
endif
ifeq ($(strip $(ONNXRUNTIME_LIB)),)
ONNXRUNTIME_LIB := $(EMBEDFLEET_CACHE)/onnxruntime/$(ORT_VERSION)/libonnxruntime.$(if $(filter Darwin,$(shell uname -s)),dylib,so)
endif
export EMBEDFLEET_CACHE MODEL ONNXRUNTIME_LIB ONCE DEMO

FUZZTIME ?= 10s
export FUZZTIME

# A checkout that git refuses to read (another owner, no git) has no version to stamp; it still builds.
VCS := $(shell git status --porcelain >/dev/null 2>&1 || echo -buildvcs=false)
GOBUILD := go build -trimpath $(VCS)

.PHONY: help setup build run test test-short clients bench bench-chatter bench-crawl bench-memory bench-queries bench-queue chaos simulate fuzz oracle lint clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  MODEL=            a model's folder or its Hugging Face repository id (default: $(MODEL_NAME))"
	@echo "  ONCE=1            make run ends after the example searches"
	@echo "  DEMO=1            make run crawls a day of filings and news instead, from imitations"
	@echo "  ONNXRUNTIME_LIB=  an ONNX Runtime library to use instead of $(ORT_VERSION)"
	@echo "  EMBEDFLEET_CACHE= where downloads are kept ($(EMBEDFLEET_CACHE))"

setup: ## bring what is missing: ONNX Runtime, the default model, Go modules, redis-server
	@MODEL='$(GIVEN_MODEL)' ONNXRUNTIME_LIB='$(GIVEN_LIB)' scripts/setup.sh

build: ## bin/worker, bin/enqueue, bin/scheduler, bin/gateway, bin/monitor, bin/standalone
	CGO_ENABLED=1 $(GOBUILD) -o bin/worker ./cmd/worker
	CGO_ENABLED=0 $(GOBUILD) -o bin/enqueue ./cmd/enqueue
	CGO_ENABLED=0 $(GOBUILD) -o bin/scheduler ./cmd/scheduler
	CGO_ENABLED=0 $(GOBUILD) -o bin/gateway ./cmd/gateway
	CGO_ENABLED=0 $(GOBUILD) -o bin/monitor ./cmd/monitor
	CGO_ENABLED=0 $(GOBUILD) -o bin/standalone ./cmd/standalone

run: setup ## the fleet on this machine with sample documents and searches, until Ctrl-C
	@$(MAKE) --no-print-directory build
	@bin/standalone

test: setup ## gofmt, go vet and every test under the race detector
	@scripts/setup.sh browser
	@scripts/setup.sh servers
	@scripts/test.sh

test-short: setup ## the same with the long tests in their smaller form
	@scripts/test.sh -short

BENCH_VENV := $(EMBEDFLEET_CACHE)/bench-venv
$(BENCH_VENV)/.complete: cmd/bench/peer/requirements.txt
	python3 -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

clients: ## OpenAI's, LangChain's, Hugging Face's, Cohere's and other clients against a gateway; brings them into the cache
	@scripts/clients.sh

bench: setup $(BENCH_VENV)/.complete ## one interleaved run of every figure, to the screen and to bench/latest.json
	@$(MAKE) --no-print-directory build
	@BENCH_PYTHON=$(BENCH_VENV)/bin/python go run ./cmd/bench

bench-chatter: ## what idle fleets ask of Redis: 240 workers of one model, 60 of a hundred
	go test ./queue/upkeep -run '^$$' -bench Chatter -benchtime 1x

bench-crawl: ## what a day of crawling costs, and 100,000 titles of a backfill; half a minute each
	go test ./cmd/scheduler -run '^$$' -bench ADay -benchtime 1x
	go test ./scheduler/dart -run '^$$' -bench Backfill -benchtime 1x

bench-queue: setup ## the queue alone against asynq alone: no-op tasks, bulk enqueue
	@go run ./cmd/bench -queue 20000

bench-memory: setup ## four workers side by side: memory of each, what one more adds, boots prepared and not
	@$(MAKE) --no-print-directory build
	@go run ./cmd/bench -memory 4

bench-queries: setup ## how long a search text waits for its vector, without other work and beside a backfill
	@$(MAKE) --no-print-directory build
	@go run ./cmd/bench -queries 200

chaos: setup ## real workers and Redis, killed every few seconds, and texts that kill: what is lost, and how long it takes
	CGO_ENABLED=1 $(GOBUILD) -tags crashtest -o bin/worker-crashtest ./cmd/worker
	@go run ./cmd/chaos -worker bin/worker-crashtest

SEEDS ?= 10000
simulate: ## SEEDS fleets of fake time under faults (10000), about 20 in a second; a seed that fails tells its story
	go test -count=1 -timeout 0 ./internal/simulation -run '^TestSeeds$$' -v -seeds $(SEEDS)

fuzz: setup ## every fuzz target for FUZZTIME (10s)
	@scripts/fuzz.sh

ORACLE_VENV := $(EMBEDFLEET_CACHE)/oracle-venv
$(ORACLE_VENV)/.complete: embedder/tokenizer/testdata/tools/requirements.txt
	python3 -m venv $(ORACLE_VENV)
	$(ORACLE_VENV)/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

ORACLE ?= 500
oracle: $(ORACLE_VENV)/.complete ## every tokenizer against Hugging Face's own code, ORACLE texts (500) of each kind, 0 for all
	go test -count=1 -timeout 0 ./embedder/tokenizer -run '^TestOracle$$' -args -python $(ORACLE_VENV)/bin/python -oracle $(ORACLE)

lint: ## golangci-lint with .golangci.yml (the first run compiles it)
	go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION) run ./...

clean: ## remove what was built; downloads stay in the cache
	rm -rf bin
