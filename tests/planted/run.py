#!/usr/bin/env python3
"""Shows that the checks find what they are for: puts each known bug of bugs.toml into a copy of the code, one at a time,
and runs the check that must fail.

    run.py [NAME...]        those, or all; ends with `N of N caught`, and with 0 only if that is so
    run.py --list           the bugs, and what finds each
    run.py --fit            only whether each still fits the code

A bug that doesn't compile, or whose place isn't found, isn't caught. CARGO_TARGET_DIR is where the workspace has been built
(`target` without it): what is compiled of others is taken from there, RocksDB above all.
"""

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
PACKAGES = ["unanimous-coordinator", "unanimous-sdk", "unanimous-tests", "unanimous-examples"]
# Not optimised, the few seeds and rounds that are needed take no longer than many.
FEW = {"UNANIMOUS_SEEDS": "300", "UNANIMOUS_ROUNDS": "4", "UNANIMOUS_POINTS": "60", "CARGO_INCREMENTAL": "1", "INSTA_UPDATE": "no"}


def misfit(bug, root):
    """Why a bug doesn't fit the code; None if it does."""
    found = (root / bug["file"]).read_text().count(bug["find"].strip("\n"))
    return None if found == 1 else f"its place is found {found} times in {bug['file']}"


def copy_tree(to):
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode == 0:
        files = [ROOT / line for line in listed.stdout.splitlines()]
    else:
        files = [path for path in ROOT.rglob("*") if "target" not in path.parts]
    for path in files:
        if path.is_file():
            copy = to / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            # Written only where it differs: what is built of the rest stays built, and nothing else does.
            if not copy.exists() or copy.read_bytes() != path.read_bytes():
                shutil.copyfile(path, copy)
                shutil.copymode(path, copy)
    config = "".join(f"[profile.release.package.{name}]\nopt-level = 0\ncodegen-units = 64\n" for name in PACKAGES)
    (to / ".cargo").mkdir(exist_ok=True)
    (to / ".cargo" / "config.toml").write_text(config)


def copy_compiled(to):
    compiled = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    for part in ["build", "deps", ".fingerprint"]:
        for path in (compiled / part).iterdir():
            if "unanimous" not in path.name:
                link(path, to / "release" / part / path.name)


def link(path, to):
    """A copy that takes no room; what cargo writes again it writes anew."""
    if path.is_dir():
        for inner in path.iterdir():
            link(inner, to / inner.name)
    else:
        to.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, to)
        except OSError:
            shutil.copy2(path, to)


@contextlib.contextmanager
def copy():
    """The folders of a copy of the code, and of what is compiled of it: PLANTED_FOLDER, which is kept, or one that isn't."""
    kept = os.environ.get("PLANTED_FOLDER")
    folder = pathlib.Path(kept or tempfile.mkdtemp(prefix="planted-"))
    tree, target = folder / "tree", folder / "target"
    try:
        copy_tree(tree)
        if not target.exists():
            copy_compiled(target)
        yield tree, target
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


def check(arguments, tree, target):
    """Runs a check: whether it compiled, and the tests that failed."""
    words = arguments.split()
    filters = words[2 if words[0] == "--test" else 1:]
    command = ["cargo", "test", "--release", "--workspace", "--no-fail-fast", *words[: len(words) - len(filters)]]
    environment = {**os.environ, **FEW, "CARGO_TARGET_DIR": str(target)}
    built = subprocess.run([*command, "--no-run"], cwd=tree, env=environment, capture_output=True, text=True)
    if built.returncode != 0:
        return False, built.stderr.splitlines()[-12:]
    ran = subprocess.run([*command, "--", *filters], cwd=tree, env=environment, capture_output=True, text=True)
    names = re.findall(r"^test (\S+) .*FAILED$", ran.stdout, re.M)
    if ran.returncode != 0 and not names:
        names = re.findall(r"^test (\S+) \.\.\. .*", ran.stdout, re.M)[-1:] or ["a test program that died"]
    return True, names


def main():
    arguments = sys.argv[1:]
    bugs = tomllib.loads((HERE / "bugs.toml").read_text())["bug"]
    if "--list" in arguments:
        for bug in bugs:
            print(f"{bug['name']}\n    {bug['what']}\n    found by: {bug['check']}")
        return 0
    misfits = {bug["name"]: why for bug in bugs if (why := misfit(bug, ROOT))}
    if "--fit" in arguments:
        for name, why in misfits.items():
            print(f"{name}: {why}")
        print(f"{len(bugs) - len(misfits)} of {len(bugs)} fit the code")
        return 1 if misfits else 0
    wanted = [bug for bug in bugs if not arguments or bug["name"] in arguments]
    if len(wanted) != (len(arguments) or len(bugs)):
        sys.exit("there is no such bug; see --list")
    with copy() as (tree, target):
        for arguments in sorted({bug["check"] for bug in wanted}):
            compiled, failed = check(arguments, tree, target)
            if not compiled or failed:
                sys.exit(f"{arguments} fails without any bug: {failed}")
            print(f"without a bug   {arguments} passes", flush=True)
        caught = 0
        for number, bug in enumerate(wanted, 1):
            began, path = time.monotonic(), tree / bug["file"]
            original = path.read_text()
            if bug["name"] in misfits:
                outcome = f"not caught: {misfits[bug['name']]}"
            else:
                path.write_text(original.replace(bug["find"].strip("\n"), bug["replace"].strip("\n")))
                compiled, names = check(bug["check"], tree, target)
                if not compiled:
                    outcome = "not caught: it doesn't compile\n" + "\n".join(names)
                elif not names:
                    outcome = f"NOT CAUGHT by {bug['check']}"
                else:
                    caught += 1
                    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                    outcome = f"caught by {names[0]}{more}"
                path.write_text(original)
            print(f"{number:>3}/{len(wanted)}  {bug['name']:<42} {outcome}  ({time.monotonic() - began:.0f} s)", flush=True)
        print(f"{caught} of {len(wanted)} caught")
        return 0 if caught == len(wanted) else 1


if __name__ == "__main__":
    sys.exit(main())
