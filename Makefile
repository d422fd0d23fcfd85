# The project's commands. `make test` is all that a fresh machine with Rust, C and C++ compilers, make, and python3 with
# pip needs.

.PHONY: test lint bench cuda

test: cuda
	cargo test --locked

lint:
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

bench:
	cargo bench --locked
	cargo run --locked --release -- bench generate --shape qwen2-vl-2b --dtype bf16

# nvcc, for the emulator's tests.
cuda:
	@tools/cuda.sh
