#!/usr/bin/env bash
# proof.sh SECONDS: the checks that go as far as the time allows, each for so many seconds, one after the other. Each says how
# far it came; what fails says how to see it again. Exit 0 only if nothing failed.
set -uo pipefail
cd "$(dirname "$0")/.."

seconds=$1
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
failed=()

# part NAME VARIABLES... -- ARGUMENTS OF CARGO TEST
part() {
    local name=$1 variables=()
    shift
    while [[ $1 != -- ]]; do
        variables+=("$1")
        shift
    done
    shift
    echo "== $name"
    env "${variables[@]}" cargo test --quiet --release --workspace "$@" || failed+=("$name")
}

part "model, two participants with everything" -- --test model -- --ignored --nocapture two_participants
part "model, three participants" "UNANIMOUS_MODEL_SECONDS=$seconds" -- --test model -- --ignored --nocapture three_participants
part "simulation" "UNANIMOUS_SECONDS=$seconds" -- --test simulation -- --nocapture
part "losses of power" "UNANIMOUS_SECONDS=$seconds" "UNANIMOUS_POINTS=$((seconds * 3))" -- --test lost_writes -- --nocapture
part "lines" "UNANIMOUS_ROUNDS=$((seconds * 2))" -- --test partitions -- --nocapture whatever_the_lines_do
part "kills" "UNANIMOUS_ROUNDS=$((seconds / 2))" -- --test rounds -- --nocapture
echo "== fuzzing"
tests/fuzz.sh "$seconds" || failed+=("fuzzing")

echo
for name in "${failed[@]}"; do echo "failed: $name"; done
if ((${#failed[@]} == 0)); then echo "nothing failed"; fi
((${#failed[@]} == 0))
