"""Whole runs of the program: their decks, their data, and how they are started."""

import shutil
import struct
import time

import results


class Runs:
    """On a host (host.py); `out` is the folder of results."""

    def __init__(self, host, out):
        self.host, self.out, self.tiny = host, out, host.tiny

    def train(self, deck, ranks=1, **settings):
        """The steps that a run reports, and how it ended. It writes no checkpoint: of a large model that takes longer than
        the steps."""
        folder = self.out / "runs" / f"{time.monotonic_ns()}"
        settings |= {"run.device": "cuda", "run.folder": folder, "run.checkpoint": "false"}
        command = [self.host.program("tawpipe"), "train", deck, "--json"]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        if ranks > 1:
            command = ["mpirun", "--bind-to", "none", "-n", ranks, *command, "--set", "gpu.share=true"]
        r = self.host.run(command)
        shutil.rmtree(folder, ignore_errors=True)
        r["steps"] = [record for record in results.records(r) if "step_s" in record]
        return r

    def deck(self, name, text):
        path = self.out / "decks" / f"{name}.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(line.strip() for line in text.strip().splitlines()) + "\n")
        return path

    def tokens(self, vocab, seq):
        """A file of tokens that look random: speed does not depend on which."""
        path = self.out / "runs" / f"tokens-{vocab}-{seq}.bin"
        count = max(64 * seq, 1 << 16) + 1
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            state, values = 1, []
            for _ in range(count):
                state = (state * 6364136223846793005 + 1442695040888963407) & (2**64 - 1)
                values.append((state >> 33) % vocab)
            path.write_bytes(struct.pack(f"<{count}H", *values))
        return path
