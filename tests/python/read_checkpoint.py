"""Prints what h5py sees in a checkpoint: attributes, and shape, type and sum of every dataset.

  python read_checkpoint.py FILE
"""

import json
import sys

import h5py
import numpy as np

out = {"datasets": {}}
with h5py.File(sys.argv[1]) as file:
    out["step"] = int(file.attrs["step"])
    out["seed"] = int(file.attrs["seed"])
    out["deck"] = file.attrs["deck"].decode()
    out["model"] = json.loads(file.attrs["model"])

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            total = float(np.sum(item[:], dtype=np.float64))
            out["datasets"][name] = {"shape": list(item.shape), "dtype": str(item.dtype), "sum": total}

    file.visititems(visit)
print(json.dumps(out))
