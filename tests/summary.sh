#!/usr/bin/env bash
# Runs every check and test, and ends with one line that counts them: `N passed, N failed` or `N passed, N failed, N skipped`.
# What could not be run at all counts as failed. Exit 0 only if nothing failed.
set -uo pipefail
cd "$(dirname "$0")/.."

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
# A changed snapshot is a failed test, never a file written beside it.
export INSTA_UPDATE=no

passed=0 failed=0 skipped=0
broken=()
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# step NAME COMMAND…: one check, which passes or fails as the command does.
step() {
    local name=$1
    shift
    echo "== $name"
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        broken+=("$name")
        return 1
    fi
}

# optional TOOL NAME COMMAND…: skipped, and said so, if `cargo TOOL` isn't there.
optional() {
    local tool=$1
    shift
    if cargo "$tool" --version > /dev/null 2>&1; then
        step "$@"
    else
        echo "== $1: skipped, cargo $tool isn't installed"
        skipped=$((skipped + 1))
    fi
}

# tests: all tests of the workspace; counts what each test program says.
tests() {
    echo "== tests"
    cargo test --release --workspace --no-fail-fast 2>&1 | tee "$log"
    local status=${PIPESTATUS[0]} counts
    # A line of a test program: test result: ok. 5 passed; 0 failed; 1 ignored; …
    counts=$(sed 's/\x1b\[[0-9;]*m//g' "$log" | awk '
        /^test result: / { for (i = 2; i <= NF; i++) { if ($i ~ /^passed/) p += $(i-1); if ($i ~ /^failed/) f += $(i-1); if ($i ~ /^ignored/) s += $(i-1) } }
        END { print p + 0, f + 0, s + 0 }')
    read -r p f s <<< "$counts"
    # A program that was not compiled, or died before it could count.
    if ((status != 0 && f == 0)); then f=1; fi
    if ((p == 0 && f == 0)); then f=1; fi
    if ((f > 0)); then broken+=("tests: $(grep -c '^test .* FAILED' "$log") named as FAILED above"); fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

failpoints=unanimous-coordinator/failpoints,unanimous-examples/failpoints
if step "build" cargo build --release --workspace &&
    step "build with failpoints" cargo build --release --workspace --features "$failpoints" \
        --bin unanimous-failpoints --bin bank-failpoints; then
    optional fmt "formatting" cargo fmt --all --check
    optional clippy "lints" cargo clippy --release --workspace --all-targets -- --deny warnings
    step "known bugs fit the code" python3 tests/planted/run.py --fit
    tests
    step "demo" "$CARGO_TARGET_DIR/release/demo" --transfers 200
fi

echo
for name in "${broken[@]}"; do echo "failed: $name"; done
if ((skipped > 0)); then
    echo "$passed passed, $failed failed, $skipped skipped"
else
    echo "$passed passed, $failed failed"
fi
((failed == 0))
