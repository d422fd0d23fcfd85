# The project's commands. `make test` is all that a fresh machine with Rust, a C compiler and make needs.

.PHONY: test lint bench

test:
	cargo test --locked

lint:
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

bench:
	cargo bench --locked
	cargo run --locked --release -- bench generate --shape qwen2-vl-2b --dtype bf16
