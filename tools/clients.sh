#!/usr/bin/env bash
# Runs the official openai Python client, unmodified, against `osprey serve` with the demo model. Needs python3 with venv, and pip's network.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --locked
work=$(mktemp -d)
target/debug/osprey serve --device cpu --port 0 --api-key test-key --log-format json 2> "$work/log" &
server=$!
trap 'kill $server 2> /dev/null || true; rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" --quiet install openai
until grep -q listening "$work/log"; do kill -0 $server; sleep 0.1; done
"$work/venv/bin/python" tools/clients.py "$work/log"
