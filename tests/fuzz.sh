#!/usr/bin/env bash
# fuzz.sh SECONDS [TARGET...]: looks for bytes that break a rule of what reads them, so many seconds for each target, from the
# corpus on. What leads further is kept beside what is built, for the next time; what breaks a rule ends it, and lies in
# tests/fuzz/artifacts: mend it, and put the bytes into the corpus.
#
# RocksDB isn't compiled again for it: the one of the workspace, built before, is linked.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=$1
shift
targets=("$@")
((${#targets[@]})) || mapfile -t targets < <(basename --suffix .rs --multiple tests/fuzz/targets/*.rs)
built="${CARGO_TARGET_DIR:-$PWD/target}"
libraries=("$built"/release/build/librocksdb-sys-*/out/librocksdb.a)
if [[ ! -f ${libraries[0]} ]]; then
    echo "fuzz: RocksDB isn't built in $built; run: make build" >&2
    exit 1
fi
command -v cargo-fuzz > /dev/null || cargo install --locked cargo-fuzz
ROCKSDB_LIB_DIR=$(dirname "${libraries[0]}")
export ROCKSDB_LIB_DIR ROCKSDB_STATIC=1 CARGO_TARGET_DIR="$built/fuzz"
# The same versions of everything as in the workspace.
cp Cargo.lock tests/fuzz/Cargo.lock

for target in "${targets[@]}"; do
    echo "== $target"
    # There is no unsafe code here that a sanitizer could catch.
    mkdir -p "$CARGO_TARGET_DIR/corpus/$target"
    cargo fuzz run --fuzz-dir tests/fuzz --sanitizer none "$target" \
        "$CARGO_TARGET_DIR/corpus/$target" "tests/fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=4096 -print_final_stats=1 2>&1 |
        tail -n 40 > "$CARGO_TARGET_DIR/last" || { cat "$CARGO_TARGET_DIR/last"; exit 1; }
    grep 'stat::number_of_executed' "$CARGO_TARGET_DIR/last"
done
