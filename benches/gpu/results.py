"""What steps give: verdicts, what is kept of a command's output, and the archive of it all."""

import json
import os
import tarfile

# Verdicts. The last needs something that this machine has not: no verdict at all.
GOOD, FAILED, REFUSED, TOO_LARGE, NOT_RUN = "good", "FAILED", "refused by the plan", "does not fit", "not run"
DONE = (GOOD, REFUSED, TOO_LARGE)

# Bytes of an archive that every machine gives back.
ARCHIVE = 16 << 20


def verdict(good):
    return GOOD if good else FAILED


def last_words(r):
    """The end of what a command said, if it failed."""
    lines = (r.get("out", "") + "\n" + r.get("err", "")).strip().splitlines()
    return "" if r["code"] == 0 else f"exit {r['code']}: " + " | ".join(lines[-6:])[-1500:]


def records(r):
    """The JSON lines of a command's output, which is then dropped."""
    return [json.loads(line) for line in r.pop("out").splitlines() if line.startswith("{")]


def not_run(why):
    return {"verdict": NOT_RUN, "why": why}


def done(path):
    """Whether a step has its result and need not be taken again."""
    return path.exists() and json.loads(path.read_text())["verdict"] in DONE


def pack(folder, archive):
    """Everything in a folder of results but runs, as one file, which appears whole. Gives its bytes."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    part = archive.with_name(archive.name + ".part")
    with tarfile.open(part, "w:gz") as tar:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            inside = path.relative_to(folder)
            if inside.parts[0] != "runs" and path not in (part, archive):
                tar.add(path, arcname=str(inside))
    os.replace(part, archive)
    return archive.stat().st_size
