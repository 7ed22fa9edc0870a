"""Seeds for the parts of a run. Needs no torch."""

import numpy as np


def epoch_seed(seed: int, *parts: int) -> int:
    """Return a 32-bit seed for one part of a run (its epoch, its rank, ...).

    So resuming needs no generator's history.
    """
    return int(np.random.SeedSequence([seed, *parts]).generate_state(1)[0])
