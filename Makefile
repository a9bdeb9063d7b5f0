# What a contributor needs. `make demo` runs the main job, `make test` passes the tests.

.PHONY: demo test bench lint fmt

# The second reader of the format is written in Python; its tests need three packages, kept out of the way.
VENV := target/venv
export TREERING_PYTHON := $(abspath $(VENV)/bin/python)

demo:
	cargo run --release --quiet -- demo

test: $(VENV)/ready
	cargo test --quiet

$(VENV)/ready:
	mkdir -p target
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check numpy blake3 zstandard
	touch $@

bench:
	cargo bench

lint:
	cargo fmt --all --check
	cargo clippy --quiet --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --quiet --no-deps
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check bans licenses sources; else echo "cargo-deny is not installed: dependencies were not checked"; fi

fmt:
	cargo fmt --all
