#!/bin/sh
# Fuzzes TARGET (body or picture) for SECONDS, from the seeds and what earlier runs found. Needs rustup's nightly compiler and cargo-fuzz
# (`cargo install cargo-fuzz`); python3 writes the seeds.
set -eu
cd "$(dirname "$0")"
target=${1:?TARGET is body or picture}
python3 seeds.py
# The versions that the project is tested with.
cp ../Cargo.lock .
cargo +nightly fuzz run --fuzz-dir . "$target" -- -max_total_time="${2:-300}" -rss_limit_mb=2048 -timeout=10 -max_len=65536
