#!/usr/bin/env bash
# Brings other people's clients into the cache, and runs them unchanged against a gateway. Called by the Makefile.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

here=cmd/gateway/testdata/clients
there=${EMBEDFLEET_CACHE:?where downloads are kept}/clients
mkdir -p "$there/node"
if ! cmp -s "$here/requirements.txt" "$there/requirements.txt"; then
  python3 -m venv "$there/venv"
  "$there/venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"
  cp "$here/requirements.txt" "$there/requirements.txt"
fi
if ! cmp -s "$here/package.json" "$there/node/package.json"; then
  cp "$here/package.json" "$there/node/package.json"
  (cd "$there/node" && npm install --silent --no-audit --no-fund) || { rm -f "$there/node/package.json"; exit 1; }
fi
export CLIENTS_PYTHON=$there/venv/bin/python CLIENTS_NODE=$there/node
go test -count=1 ./cmd/gateway -run '^TestClients$' -v -parallel 2
