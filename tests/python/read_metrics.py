"""Reads metrics.h5 again and again with plain h5py, checks that every read is of a whole file, and prints what it saw.

  python read_metrics.py FILE READS
"""

import json
import sys
import time

import h5py

path, reads = sys.argv[1], int(sys.argv[2])
rows = []
for _ in range(reads):
    with h5py.File(path) as file:
        train = {name: dataset[:] for name, dataset in file["train"].items()}
        lengths = {len(column) for column in train.values()}
        assert len(lengths) == 1, f"columns of lengths {lengths}"
        steps = train["step"]
        assert list(steps) == list(range(1, len(steps) + 1)), "steps are not 1, 2, 3, ..."
        # The writer's rule, exact in f64.
        assert all(train["loss"] == 1.0 / steps), "a loss differs"
        rows.append(len(steps))
    time.sleep(0.02)
assert rows == sorted(rows), "a later read saw fewer steps"
with h5py.File(path) as file:
    text = lambda value: value.decode() if isinstance(value, bytes) else str(value)
    print(json.dumps({
        "rows": rows,
        "attributes": {name: text(file.attrs[name]) for name in ("format", "system", "deck")},
        "groups": [int(size) for size in file.attrs["groups"]],
        "units": {name: text(dataset.attrs["unit"]) for name, dataset in file["train"].items()},
        "layouts": sorted({"contiguous" if dataset.chunks is None else "chunked" for dataset in file["train"].values()}),
    }))
