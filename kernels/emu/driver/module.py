#!/usr/bin/env python3
"""module.py PREPROCESSED OUT: writes what the emulated driver takes for a fatbin, from a kernel file after the
preprocessor: the head of a fatbin, then the word `emulated`, then the names of the kernels, each on a line."""

import pathlib
import re
import struct
import sys

names = re.findall(r"registered_\w+\(\s*\"(\w+)\"", pathlib.Path(sys.argv[1]).read_text())
text = "".join(line + "\n" for line in ["emulated", *names]).encode()
pathlib.Path(sys.argv[2]).write_bytes(struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(text)) + text)
