#!/usr/bin/env bash
# Makes the files that docker-compose.yml mounts as secrets, in the folder secrets/ at the root of the checkout
# (or in the one that is named). What is there already stays as it is, so running it again changes nothing.
#
# The files are readable by all because Compose mounts them with the owner and mode they have here, and the
# roles run as a user of their own; the folder, which is not mounted, keeps everybody else out.
set -euo pipefail
umask 022

dir=${1:-$(dirname "${BASH_SOURCE[0]}")/../secrets}
mkdir -p "$dir"
chmod 0700 "$dir"

random() { LC_ALL=C tr -dc 'a-zA-Z0-9' </dev/urandom 2>/dev/null | head -c 40 || true; }

# put NAME TEXT: writes the file unless it is there, whole or not at all.
put() {
  if [ -e "$dir/$1" ]; then
    echo "$1: kept"
    return
  fi
  printf '%s' "$2" >"$dir/.$1.new"
  chmod 0444 "$dir/.$1.new"
  mv "$dir/.$1.new" "$dir/$1"
  echo "$1: made"
}

# The two files about Redis hold one password and are made together. The user `health` may ask whether Redis
# answers and nothing else, so its password is no secret.
if [ -e "$dir/redis_acl" ] && [ -e "$dir/redis_url" ]; then
  echo "redis_acl: kept"
  echo "redis_url: kept"
elif [ -e "$dir/redis_acl" ] || [ -e "$dir/redis_url" ]; then
  echo "redis_acl and redis_url belong together, and only one of them is in $dir: bring the other or remove it" >&2
  exit 1
else
  password=$(random)
  put redis_acl "user default on >$password ~* &* +@all
user health on nopass resetkeys resetchannels -@all +ping
"
  put redis_url "redis://default:$password@redis:6379
"
fi
# Nobody may sign in at the monitor yet: docs/deploy.md tells how to add people.
put monitor_users "# written by: monitor password NAME operator
"
chmod 0644 "$dir/monitor_users"
put gateway_tokens "$(random)
"
put session_key "$(random)"
put grafana_password "$(random)"
# Without a key no filings are crawled, without a token only public models are fetched.
put dart_key ""
put hf_token ""
