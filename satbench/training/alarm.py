"""Tells catastrophic overfitting: single-step attacks fail while iterated ones succeed."""

import math
from collections.abc import Sequence

from satbench.results.metrics import Paired, paired_interval
from satbench.results.training_log import Epoch

GAP = 0.2  # of the accuracies under FGSM and PGD, beyond the noise
FALL = 0.2  # of the accuracy under PGD below its best, the guard of Wong et al. 2020 (arXiv 2001.03994)


def collapse(history: Sequence[Epoch]) -> str:
    """Why the last epoch of a log looks like catastrophic overfitting, in words; empty when it does not.

    The last epoch was measured; those that were not count for nothing.

    Either PGD leaves less than half of the accuracy that FGSM leaves, and the lower end of the paired 95% interval of
    their difference is above 20 points; or PGD's accuracy is more than 20 points below that of an earlier epoch, while
    FGSM's has not fallen as far. The first rule is satbench's own; Wong et al. compare with the epoch before, on one
    batch of training images.
    """
    measured = {row.epoch: row.val for row in history if row.val is not None}
    now = measured[history[-1].epoch]
    n, fgsm, robust = now.n, now.fgsm, now.robust
    fgsm_alone = now.broken_by_pgd_alone - round((fgsm - robust) * n)
    low, _ = paired_interval(Paired(n, now.broken_by_pgd_alone, fgsm_alone, p_value=math.nan))
    if robust < fgsm / 2 and low > GAP:
        return f"FGSM leaves {fgsm:.1%} and PGD {robust:.1%} of {n} validation images"
    epoch, best = max(measured.items(), key=lambda one: one[1].robust)
    if best.robust - robust > FALL and best.fgsm - fgsm < (best.robust - robust) / 2:
        return f"PGD left {best.robust:.1%} in epoch {epoch + 1} and leaves {robust:.1%} now"
    return ""
