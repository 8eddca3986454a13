#!/usr/bin/env python3
"""Reads what ptxas said of each kernel (-Xptxas -v); fails if a hot kernel keeps registers in memory.

    spills.py [--table] LOG...
"""

import re
import sys

# Kernels in which a spill costs time on every token. `attention_simple` is a fallback and not among them.
HOT = ("attention_flash_", "rmsnorm_", "rope_", "swiglu_", "cross_entropy", "adamw", "squares_parts", "embed_")

ENTRY = re.compile(r"Compiling entry function '(\w+)' for '(\w+)'")
STACK = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")


def kernels(log):
    """(name, architecture, registers, bytes of stack, bytes spilled), one a kernel and architecture."""
    name = arch = None
    stack = spilled = 0
    for line in open(log, encoding="utf-8"):
        if found := ENTRY.search(line):
            name, arch = found.groups()
        elif found := STACK.search(line):
            stack, stores, loads = map(int, found.groups())
            spilled = stores + loads
        elif (found := USED.search(line)) and name:
            yield name, arch, int(found.group(1)), stack, spilled
            name = None


def main():
    arguments = [a for a in sys.argv[1:] if a != "--table"]
    rows = sorted(row for log in arguments for row in kernels(log))
    if not rows:
        sys.exit("spills.py: the logs name no kernel")
    if "--table" in sys.argv:
        print("| kernel | architecture | registers | stack | spilled |\n|---|---|---|---|---|")
        for row in rows:
            print("| " + " | ".join(map(str, row)) + " |")
    bad = [row for row in rows if row[0].startswith(HOT) and (row[3] or row[4])]
    for name, arch, registers, stack, spilled in bad:
        print(f"{name} ({arch}): {registers} registers, {stack} bytes of stack, {spilled} bytes spilled", file=sys.stderr)
    hot = sum(row[0].startswith(HOT) for row in rows)
    print(f"{len(rows)} kernels for GPUs compiled, {hot} of them hot, {len(bad)} with spills", file=sys.stderr)
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
