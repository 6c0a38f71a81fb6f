#!/usr/bin/env bash
# Everything a change must pass: formatting, vet, the tests under the race detector. Arguments are handed
# to go test (scripts/test.sh -short). Called by the Makefile, which sets ONNXRUNTIME_LIB and the cache.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

unformatted=$(gofmt -l .)
if [ -n "$unformatted" ]; then
  printf 'not formatted, run gofmt -w on:\n%s\n' "$unformatted" >&2
  exit 1
fi
echo "gofmt: clean"
go vet ./...
echo "go vet: clean"
# The race detector's own bookkeeping allocates, so what counts allocations runs without it.
go test -run '^TestNoAllocations$' ./embedder/tokenizer
# It would also make these worlds five times slower; some of them run with it below. On a slow machine there are fewer.
seeds=2000
case " $* " in *" -short "*) seeds=200 ;; esac
go test -count=1 ./internal/simulation -run '^(TestSeeds|TestSameSeedSameHistory)$' -seeds "$seeds" -for "${SIMULATION_TIME:-150s}"
# Packages side by side (-p) would each start a Redis and an ONNX Runtime: two at a time keeps small machines alive.
go test -json -race -timeout "${TEST_TIMEOUT:-20m}" -p "${TEST_PARALLEL:-2}" "$@" ./... | go run ./scripts/testsummary
