#!/usr/bin/env python3
"""Mutation campaign: do the tests notice small defects?

    python3 scripts/mutants.py [--only TEXT] [--jobs N] [--check]

Reads scripts/mutants.toml, a list of expressions of src/ with a wrong one for each, and the tests that can notice it. A copy
of the tree is made under the target folder in which every such place holds both, the wrong one behind a switch that the
environment sets; so one build serves all mutants, and src/ itself holds nothing of this. Each mutant is killed if one of its
tests fails or takes longer than ten minutes. Mutants whose expression no longer stands in the source are named and not
counted: mend the list. Exit code 0: every mutant was killed.
"""
import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tomllib

TOP = subprocess.run(["git", "rev-parse", "--show-toplevel"], capture_output=True, text=True, check=True).stdout.strip()
TARGET = os.path.join(os.environ.get("CARGO_TARGET_DIR", TOP + "/target"), "mutants")
SWITCH = """
/// Which mutant runs; see scripts/mutants.py.
pub mod mutant {
    /// Whether it is this one.
    pub fn is(number: usize) -> bool {
        static CHOSEN: std::sync::OnceLock<Option<usize>> = std::sync::OnceLock::new();
        *CHOSEN.get_or_init(|| std::env::var("TAWPIPE_MUTANT").ok()?.parse().ok()) == Some(number)
    }
}
"""


def copy():
    """A copy of what git tracks, without links into the old one."""
    tree = TARGET + "/tree"
    shutil.rmtree(tree, ignore_errors=True)
    files = subprocess.run(["git", "ls-files", "-z"], cwd=TOP, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, files):
        if os.path.isfile(f"{TOP}/{name}"):
            os.makedirs(os.path.dirname(f"{tree}/{name}"), exist_ok=True)
            shutil.copy2(f"{TOP}/{name}", f"{tree}/{name}")
    return tree


def apply(tree, mutants):
    """Puts every mutant beside the original; returns those that fit."""
    texts, fit = {}, []
    for mutant in mutants:
        path = f"{tree}/{mutant['file']}"
        if path not in texts and os.path.exists(path):
            texts[path] = open(path).read()
        if texts.get(path, "").count(mutant["old"]) != 1:
            print(f"not counted, its expression is not there once: {mutant['file']}: {mutant['old']}")
            continue
        both = f"(if crate::mutant::is({mutant['number']}) {{ {mutant['new']} }} else {{ {mutant['old']} }})"
        texts[path] = texts[path].replace(mutant["old"], both)
        fit.append(mutant)
    library = f"{tree}/src/lib.rs"
    # Some of these places need no parentheses, and some imports are used by what a mutant replaces.
    texts[library] = "#![allow(unused)]\n" + texts.get(library, open(library).read()) + SWITCH
    for path, text in texts.items():
        open(path, "w").write(text)
    return fit


def cargo(tree, *args):
    # In the same target folder, so that dependencies are not built again.
    env = dict(os.environ, CARGO_TARGET_DIR=os.path.dirname(TARGET), CARGO_PROFILE_DEV_OPT_LEVEL="0", CARGO_PROFILE_DEV_DEBUG="0")
    return subprocess.run(["cargo", *args], cwd=tree, env=env, stderr=subprocess.PIPE, text=True)


def build(tree, tests):
    """Test binaries by name; `lib` are the unit tests."""
    names = sorted({test.split()[0] for test in tests})
    which = [word for name in names for word in (["--lib"] if name == "lib" else ["--test", name])]
    done = cargo(tree, "test", "--no-run", *which)
    if done.returncode:
        sys.exit(done.stderr)
    binaries = {}
    for source, path in re.findall(r"Executable (?:unittests )?(\S+) \((\S+)\)", done.stderr):
        name = "lib" if source == "src/lib.rs" else source.split("/")[1].removesuffix(".rs")
        binaries[name] = path if os.path.isabs(path) else f"{tree}/{path}"
    return binaries


def found(tree, binaries, test):
    """Whether there is such a test."""
    name, *filters = test.split()
    listed = subprocess.run([binaries[name], *filters, "--list"], cwd=tree, capture_output=True, text=True).stdout
    return ": test" in listed


def fails(tree, binaries, test, number):
    """Whether a test (`binary filter…`) fails under a mutant."""
    name, *filters = test.split()
    env = dict(os.environ, CARGO_MANIFEST_DIR=tree, TAWPIPE_MUTANT=str(number), RUST_BACKTRACE="0")
    try:
        done = subprocess.run([binaries[name], *filters], cwd=tree, env=env, capture_output=True, text=True, timeout=600)
    except subprocess.TimeoutExpired:
        return True
    return done.returncode != 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="mutants of files whose path holds this")
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--check", action="store_true", help="run the tests without any mutant only")
    options = parser.parse_args()
    listed = tomllib.load(open(f"{TOP}/scripts/mutants.toml", "rb"))["mutant"]
    mutants = [dict(mutant, number=number) for number, mutant in enumerate(listed, 1) if options.only in mutant["file"]]
    tree = copy()
    mutants = apply(tree, mutants)
    tests = sorted({test for mutant in mutants for test in mutant["tests"]})
    binaries = build(tree, tests)
    if unknown := [test for test in tests if not found(tree, binaries, test)]:
        sys.exit(f"no such tests: {unknown}")
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        broken = {test for test, failed in zip(tests, pool.map(lambda test: fails(tree, binaries, test, 0), tests)) if failed}
    print("\n".join(f"fails without a mutant, and is left out: {test}" for test in sorted(broken)) or "all tests pass without a mutant", flush=True)
    if options.check:
        return bool(broken)

    def killed(mutant):
        by = next((test for test in mutant["tests"] if test not in broken and fails(tree, binaries, test, mutant["number"])), None)
        said = f"killed by {by}" if by else "SURVIVED"
        print(f"{mutant['number']:3}  {mutant['file']}: {mutant['old']} -> {mutant['new']}: {said}", flush=True)
        return by is not None

    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        verdicts = list(pool.map(killed, mutants))
    parts = {}
    for mutant, verdict in zip(mutants, verdicts):
        parts.setdefault(mutant["file"].split("/")[1], []).append(verdict)
    for part, of in sorted(parts.items()):
        print(f"{part:12} {sum(of):3} of {len(of):3} killed")
    print(f"{'all':12} {sum(verdicts):3} of {len(verdicts):3} killed")
    return not all(verdicts)


if __name__ == "__main__":
    sys.exit(main())
