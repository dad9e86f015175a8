"""Tells catastrophic overfitting: single-step attacks fail while iterated ones succeed."""

import math
from collections.abc import Sequence
from typing import Any

from satbench.results.metrics import Paired, paired_interval

GAP = 0.2  # of the accuracies under FGSM and PGD, beyond the noise
FALL = 0.2  # of the accuracy under PGD below its best, the guard of Wong et al. 2020 (arXiv 2001.03994)


def collapse(history: Sequence[dict[str, Any]]) -> str:
    """Why the last epoch of a log looks like catastrophic overfitting, in words; empty when it does not.

    The log holds measured epochs alone.

    Either PGD leaves less than half of the accuracy that FGSM leaves, and the lower end of the paired 95% interval of
    their difference is above 20 points; or PGD's accuracy is more than 20 points below that of an earlier epoch, while
    FGSM's has not fallen as far. The first rule is satbench's own; Wong et al. compare with the epoch before, on one
    batch of training images.
    """
    row = history[-1]
    n, fgsm, robust = row["val_n"], row["val_fgsm"], row["val_robust"]
    pgd_alone = row["val_broken_by_pgd_alone"]
    fgsm_alone = pgd_alone - round((fgsm - robust) * n)
    low, _ = paired_interval(Paired(n, pgd_alone, fgsm_alone, p_value=math.nan))
    if robust < fgsm / 2 and low > GAP:
        return f"FGSM leaves {fgsm:.1%} and PGD {robust:.1%} of {n} validation images"
    best = max(history, key=lambda one: one["val_robust"])
    if best["val_robust"] - robust > FALL and best["val_fgsm"] - fgsm < (best["val_robust"] - robust) / 2:
        return f"PGD left {best['val_robust']:.1%} in epoch {best['epoch'] + 1} and leaves {robust:.1%} now"
    return ""
