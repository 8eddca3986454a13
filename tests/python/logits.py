"""Loads a folder with transformers and compares its logits on the first micro-batch with those of a reference.

  python logits.py FOLDER PARITY_FOLDER

PARITY_FOLDER holds tokens.npy and, for the initial weights, init_logits.npy. Prints the largest difference.
"""

import json
import sys

import numpy as np
import torch
import transformers

folder, parity = sys.argv[1], sys.argv[2]
torch.set_num_threads(1)
model, info = transformers.LlamaForCausalLM.from_pretrained(
    folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
)
tokens = np.load(f"{parity}/tokens.npy").astype(np.int64)
batch = torch.from_numpy(np.stack([tokens[i * 64 : i * 64 + 64] for i in range(2)]))
with torch.no_grad():
    logits = model(input_ids=batch, use_cache=False).logits.float().numpy()
reference = np.load(f"{parity}/init_logits.npy")
print(json.dumps({
    "difference": float(np.abs(logits - reference).max()),
    "scale": float(np.abs(reference).max()),
    "missing": sorted(map(str, info["missing_keys"])),
    "unexpected": sorted(map(str, info["unexpected_keys"])),
    "theta": float(model.config.rope_parameters["rope_theta"]) if hasattr(model.config, "rope_parameters") else float(model.config.rope_theta),
    "tied": bool(model.config.tie_word_embeddings),
}))
