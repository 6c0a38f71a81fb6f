#!/usr/bin/env bash
# Runs every fuzz target of the module for FUZZTIME each (default 10s), one after the other, and stops at the
# first finding. Go keeps a finding's input under the package's testdata/fuzz: commit it as a new seed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

for dir in $(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do
  for target in $(grep -h -o '^func Fuzz[A-Za-z0-9_]*' "$dir"/*_test.go | cut -d' ' -f2); do
    echo "fuzz: $dir $target for ${FUZZTIME:-10s}"
    go test -run '^$' -fuzz "^$target\$" -fuzztime "${FUZZTIME:-10s}" "$dir"
  done
done
echo "fuzz: nothing found"
