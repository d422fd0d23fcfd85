#!/bin/sh
# Fuzzes TARGET (body or picture) for SECONDS, from the seeds and what earlier runs found. Needs rustup's
# nightly compiler and python3, which writes the seeds; installs cargo-fuzz if it is missing.
set -eu
cd "$(dirname "$0")"
target=${1:?TARGET is body or picture}
cargo fuzz --version >/dev/null 2>&1 || cargo install --quiet --locked cargo-fuzz@0.13.2
python3 seeds.py
cargo +nightly fuzz run --fuzz-dir . "$target" -- \
	-max_total_time="${2:-300}" -rss_limit_mb=2048 -timeout=10 -max_len=65536 -print_final_stats=1
