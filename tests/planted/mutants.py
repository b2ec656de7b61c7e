#!/usr/bin/env python3
"""Changes the code of the two state machines a little, one place at a time, as cargo-mutants does, and runs the checks: a
change that none of them notices is one that nothing proves.

    mutants.py [ARGUMENTS OF cargo mutants...]

Ends with 0 only if each was noticed. What need not be stands in mutants.toml, with its reason. As in run.py, it is done in a copy,
and CARGO_TARGET_DIR is where the workspace has been built.
"""

import os
import shutil
import subprocess
import sys

import run

FILES = ["coordinator/src/transaction/*.rs", "participant-sdk/src/branch/*.rs"]
# What is next to the machines, and quick: each change is tried with all of them.
CHECKS = ["transaction::", "engine::", "journal::tests::retention", "branch::"]


def main():
    if shutil.which("cargo-mutants") is None:
        subprocess.run(["cargo", "install", "--locked", "cargo-mutants"], check=True)
    with run.copy() as (tree, target):
        files = [word for file in FILES for word in ("--file", file)]
        command = ["cargo", "mutants", "--in-place", "--config", "tests/planted/mutants.toml", *files]
        command += ["--profile", "release", "--test-workspace", "true", "--timeout", "120", "--output", str(tree.parent)]
        command += ["--cargo-arg=--lib", *sys.argv[1:], "--", "--", *CHECKS]
        environment = {**os.environ, **run.FEW, "CARGO_TARGET_DIR": str(target)}
        ended = subprocess.run(command, cwd=tree, env=environment).returncode
        # 3: some made a check run for ever, which is noticed, too.
        return 0 if ended == 3 else ended


if __name__ == "__main__":
    sys.exit(main())
