#!/usr/bin/env bash
# Runs in its own network namespace: starts the program ($1), connects a client, takes the network
# down, and prints after how many seconds the program has closed the connection.
set -euo pipefail
PATH="$PATH:/usr/sbin:/sbin"
ip link set lo up
port=8099
log=$(mktemp)
RUST_LOG=chinwag=debug "$1" --listen "127.0.0.1:$port" --ping-interval 1s --pong-timeout 2s 2> "$log" &
program=$!
trap 'kill "$program" 2>/dev/null || true; rm -f "$log"' EXIT

wait_for() {
  for _ in $(seq 300); do
    if grep -q "$1" "$log"; then return; fi
    sleep 0.05
  done
  echo "timed out waiting for: $1" >&2
  cat "$log" >&2
  exit 1
}

wait_for "open http"
exec 3<>"/dev/tcp/127.0.0.1/$port"
printf 'GET /ws HTTP/1.1\r\nHost: localhost:%s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' "$port" >&3
printf 'Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n' >&3
wait_for "connected as"
ip link set lo down
since=$(date +%s.%N)
wait_for "no answer to pings"
until=$(date +%s.%N)
awk "BEGIN { print $until - $since }"
