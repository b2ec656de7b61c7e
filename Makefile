# `make demo` and `make test` each work as the first command typed, on a Debian machine with cargo.
#
# Always `--release --workspace` and one target folder: the demo and the tests share what is compiled, above all RocksDB.

export CARGO_TARGET_DIR ?= $(CURDIR)/target
RUST := 1.95
RELEASE := $(CARGO_TARGET_DIR)/release

.DEFAULT_GOAL := help
.PHONY: help demo test proof planted-bugs mutants check fix build setup clean

help:
	@echo "make demo    real services move money, two of them are killed at the worst moment, nothing is lost"
	@echo "             (HOLD=1 leaves all running at the end; TRANSFERS=N)"
	@echo "make test    every check and test, and a count of them as the last line"
	@echo "make proof   what takes longer: SECONDS=N for each part, 600 without it"
	@echo "make planted-bugs   puts known bugs into a copy of the code, and shows that each is caught"
	@echo "make mutants changes the state machines a little, place by place, and shows that each change is noticed"
	@echo "make check   formatting and lints only"
	@echo "make fix     formats, and mends what the lints can"
	@echo "make build   the binaries, in $(RELEASE)"
	@echo "make clean   removes all that was compiled, RocksDB too"

demo: build
	@DEMO_HOLD="$(HOLD)" $(if $(TRANSFERS),DEMO_TRANSFERS="$(TRANSFERS)") "$(RELEASE)/demo"

test: setup
	@tests/summary.sh

proof: build
	@tests/proof.sh "$(or $(SECONDS),600)"

planted-bugs: build
	@tests/planted/run.py

mutants: build
	@tests/planted/mutants.py

check: setup
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- --deny warnings

fix: setup
	cargo clippy --release --workspace --all-targets --fix --allow-dirty --allow-staged
	cargo fmt --all

build: setup
	@cargo build --release --workspace

clean:
	cargo clean

# Installs what is missing, and nothing else: a C++ compiler for RocksDB, libclang for its bindings.
setup:
	@.ci/setup "$(RUST)"
