# The project's commands. `make test` is all that a fresh machine with Rust, C and C++ compilers, make, and python3 with
# pip needs.

.PHONY: test lint bench cuda browser clients check-deploy gpu gpu-bundle

test: cuda browser
	cargo test --locked

lint:
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps

bench:
	cargo bench --locked
	cargo run --locked --release -- bench generate --shape qwen2-vl-2b --dtype bf16

# nvcc, for the kernels and the emulator's tests.
cuda:
	@tools/cuda.sh

# Headless Chromium, for the test of the playground; without one that test says so, or fails where REQUIRE names browser.
browser:
	@tools/browser.sh || [ $$? = 77 ]

# The clients that people use, and schemathesis, against the server.
clients:
	@tools/clients.sh

# The unit and the manifests.
check-deploy:
	@tools/deploy.sh

# The suite on a real GPU, and a report in target/gpu-report. On a machine with nothing but a driver: bring the repository with
# target/gpu, which gpu-bundle builds, and run tools/gpu.sh.
gpu: gpu-bundle
	@tools/gpu.sh

gpu-bundle: cuda
	cargo build --locked --release
	mkdir -p target/gpu
	cp target/release/osprey target/gpu/osprey
	cp "$$(cargo test --locked --release --no-run --test gpu --message-format json | \
		sed -n 's/.*"executable":"\([^"]*gpu-[^"]*\)".*/\1/p')" target/gpu/suite
	strip target/gpu/*
