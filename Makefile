# What a person does here, each in one word. `make` alone says which.

CARGO ?= cargo
PYTHON ?= python3
# The interpreter of the test that reads stores without this library: set it, or one with the packages is made here.
ifndef TREERING_PYTHON
TREERING_PYTHON := $(CURDIR)/target/venv/bin/python
reader := target/venv/ready
endif
export TREERING_PYTHON
# The environment of the Python package: its tests, and what they test against.
python := target/python/bin/python
ruff := ../target/python/bin/ruff

.PHONY: help demo session test test-rust test-python test-all asan faults crash-full damage-full kills seeds fuzz mutants soak bench wheel lint fmt

help:
	@echo "make demo    train a small model, save, crash, resume, restore, collect"
	@echo "make session record the demo anew, as the README shows it"
	@echo "make test    all tests: test-rust and test-python"
	@echo "make test-all  the same, and those that take long"
	@echo "make asan    the tests of the codecs, with every access to memory checked"
	@echo "make bench   all benchmarks"
	@echo "make wheel   a Python wheel for other machines, tried in an environment of its own"
	@echo "make lint    format, clippy, documentation, dependencies"
	@echo "make fmt     format the code"
	@echo "make faults  the tests of faults, and which rows of docs/DURABILITY.md they cover"
	@echo "make crash-full, damage-full    a million crash states; every bit of a small store"
	@echo "make kills, seeds               2 000 processes killed at random; 10 000 histories by chance"
	@echo "make mutants                    what keeps a store safe taken away, one after the other: some test must fail"
	@echo "make fuzz, soak [FOR=seconds]   every fuzz target for so long; a store in use on a disk that fails"

demo:
	$(CARGO) run --release --quiet -- demo

test: test-rust test-python

# Benchmarks are built by lint, and run by bench alone.
test-rust: $(reader)
	$(CARGO) test --lib --bins --tests
	$(CARGO) test --doc

# The README's picture of a terminal, from what the demo prints.
session:
	$(CARGO) build --release --quiet
	$(PYTHON) docs/session.py > docs/session.svg

# Nearly all unsafe code is in the kernels of the codecs. The sanitizer is not part of stable Rust yet, hence the variable;
# with a target named, build scripts and macros are compiled without it.
asan:
	RUSTC_BOOTSTRAP=1 RUSTFLAGS=-Zsanitizer=address \
	$(CARGO) test --lib codec --target $(shell rustc -vV | sed -n 's/^host: //p')

# The package is built as `pip install ./python` builds it, but unoptimized, from what test-rust has compiled.
test-python: target/python/ready
	PATH="$(CURDIR)/target/python/bin:$$PATH" MATURIN_PEP517_ARGS="--profile dev" $(python) -m pip install --quiet --disable-pip-version-check \
		--no-build-isolation --no-index --force-reinstall ./python
	cd python && ../$(python) -m mypy && ../$(python) -m pytest -q

test-all: test
	cd python && TREERING_KILLS=100 TREERING_SAVES=1000 ../$(python) -m pytest -q tests/test_resume.py tests/test_run.py

bench: target/python/ready
	$(CARGO) bench --bench '*'
	PATH="$(CURDIR)/target/python/bin:$$PATH" $(python) -m pip install --quiet --disable-pip-version-check \
		--no-build-isolation --no-index --force-reinstall ./python
	$(python) python/benches/save_load.py

# For every Linux of this kind of processor with glibc 2.17 and Python 3.11: zig links it, and maturin refuses what needs
# more. It is tried where nothing else is installed.
wheel:
	rm -rf target/wheels
	$(PYTHON) -m venv target/wheel
	target/wheel/bin/python -m pip install --quiet --disable-pip-version-check "maturin>=1.9,<2" ziglang
	PATH="$(CURDIR)/target/wheel/bin:$$PATH" maturin build --manifest-path python/Cargo.toml --quiet --release --strip \
		--zig --compatibility manylinux_2_17 --out target/wheels
	$(PYTHON) -m venv --clear target/wheel-tried
	target/wheel-tried/bin/python -m pip install --quiet --disable-pip-version-check --no-index target/wheels/treering-*.whl
	cd target/wheel-tried && bin/treering demo && bin/python -c "import treering; treering.Store('store').run('run').close()"

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --all-targets -- -D warnings
	$(CARGO) clippy --lib --no-default-features -- -D warnings
	$(CARGO) clippy --package treering-python --package treering-cli -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --no-deps --lib
	@if $(CARGO) deny --version >/dev/null 2>&1; \
	then $(CARGO) deny check bans licenses sources; \
	else echo "cargo-deny is not installed: bans, licences and sources were not checked"; fi
	@if [ -x target/python/bin/ruff ]; \
	then cd python && $(ruff) check --quiet && $(ruff) format --quiet --check; \
	else echo "the Python code was not checked: make target/python/ready installs ruff"; fi

fmt:
	$(CARGO) fmt --all
	@if [ -x target/python/bin/ruff ]; then cd python && $(ruff) check --quiet --fix && $(ruff) format --quiet; fi

target/venv/ready:
	$(PYTHON) -m venv target/venv
	target/venv/bin/python -m pip install --quiet --disable-pip-version-check numpy blake3 zstandard
	touch $@

faults: $(reader)
	$(CARGO) test --no-fail-fast --lib --tests -- --show-output f0 f1 > target/faults.log 2>&1; true
	$(PYTHON) tests/faults.py target/faults.log docs/DURABILITY.md

crash-full:
	TREERING_CRASH_STATES=1000000 $(CARGO) test --release --no-default-features --test sim -- --nocapture crash::

damage-full:
	TREERING_ALL_BITS=1 $(CARGO) test --release --no-default-features --test sim -- --nocapture f012_every_bit

kills:
	TREERING_KILLS=2000 $(CARGO) test --release --test it -- --nocapture f024_f070

seeds:
	TREERING_SEEDS=10000 TREERING_STEPS=200 $(CARGO) test --release --no-default-features --test sim -- --nocapture f041_f071

mutants: $(reader)
	$(PYTHON) tests/mutants.py

FOR ?= 60
soak:
	TREERING_SOAK=$(FOR) $(CARGO) test --release --test it -- --nocapture soak::what

# Needs cargo-fuzz. What is found goes to fuzz/artifacts; make a seed of it.
fuzz:
	for target in $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs))); do \
		mkdir -p fuzz/corpus/$$target; \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
			-max_total_time=$(FOR) -max_len=8192 -timeout=20 -malloc_limit_mb=256 || exit 1; \
	done

# Several gigabytes: the wheel of torch brings its CUDA libraries.
target/python/ready: python/requirements.txt
	$(PYTHON) -m venv target/python
	$(python) -m pip install --quiet --disable-pip-version-check --requirement python/requirements.txt || \
		{ echo "the Python package was not tested: its requirements cannot be installed here"; exit 1; }
	touch $@
