"""Which steps one call takes, and how long each of them may run.

The two plans are for a machine that is lent for a quarter of an hour in all and handed out for one call at a time, each of which
begins with a fresh start of the machine. Their steps fit into their time as they are expected to; a step that takes longer may
use what is to spare and is then ended, never a second of what a later step is expected to take.
"""

import time
from typing import NamedTuple

# Seconds for which the machine is lent, starts included, and what a start with its transfers takes at most.
LENT, START = 15 * 60, 120
# Seconds between two steps: what was started ends, results are written.
PAUSE = 2
# A step that takes so many times what was expected of it hangs.
LONGEST = 3


class Plan(NamedTuple):
    minutes: float
    steps: tuple
    # Taken where the others were faster than expected.
    extra: tuple


PLANS = {
    "first": Plan(6, ("machine", "a-kernels", "b-a_mha4-f32", "b-a_mha4-bf16", "b-b_gqa2-f32", "b-b_gqa2-bf16", "d-kernels",
                      "e-0.5b-1024-tawpipe", "e-1.5b-1024-tawpipe"),
                  ("e-1.5b-1024-tawpipe-any", "e-0.5b-1024-tawpipe-any")),
    "second": Plan(5, ("machine", "e-0.5b-1024-torch", "e-1.5b-1024-torch", "d-torch-attention", "a-memcheck-attention",
                       "d-profile-attention"),
                   ("a-racecheck-attention", "d-torch-rows")),
}


def allowed(expected, later, left):
    """Seconds that a step may take of those that are left; None if it does not fit. `expected` is what it is expected to take,
    `later` what the plan's later steps are: as many as fit behind this one keep their time."""
    left -= PAUSE
    if expected > left:
        return None
    kept = 0
    for seconds in later:
        if expected + kept + seconds + PAUSE <= left:
            kept += seconds + PAUSE
    return min(LONGEST * expected, left - kept)


class Clock:
    """Seconds since the script began."""

    def __init__(self):
        self.zero = time.monotonic()

    def now(self):
        return time.monotonic() - self.zero

    def patience(self, seconds):
        """For how long a command may really run in a step that may take so many seconds."""
        return seconds

    def step_is_over(self, expected, limit):
        """Time goes by itself."""


class Pretended(Clock):
    """Every step takes `factor` times what is expected of it, or is ended at its limit, however long it really takes."""

    def __init__(self, factor):
        self.factor, self.at = factor, 0.0

    def now(self):
        return self.at

    def patience(self, seconds):
        return 600

    def step_is_over(self, expected, limit):
        self.at += min(self.factor * expected, limit) + PAUSE
