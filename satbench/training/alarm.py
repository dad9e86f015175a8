"""Tells catastrophic overfitting: single-step attacks fail while iterated ones succeed."""

import math
from collections.abc import Sequence

from satbench.results.metrics import Paired, paired_interval
from satbench.results.training_log import Epoch

GAP = 0.2  # of the accuracies under FGSM and PGD, beyond the noise
FALL = 0.2  # of the accuracy under PGD below its best, the guard of Wong et al. 2020 (arXiv 2001.03994)


def collapse(history: Sequence[Epoch], weak: str, strong: str) -> str:
    """Why the last epoch of a log looks like catastrophic overfitting, in words; empty when it does not.

    weak, strong: the figures that are compared, accuracies under a single-step and an iterated attack. The last epoch
    was measured; those that were not count for nothing.

    Either the strong attack leaves less than half of the accuracy that the weak one leaves, and the lower end of the
    paired 95% interval of their difference is above 20 points; or the accuracy under the strong one is more than 20
    points below that of an earlier epoch, while that under the weak one has not fallen as far. The first rule is
    satbench's own; Wong et al. compare with the epoch before, on one batch of training images.
    """
    measured = {row.epoch: row.val for row in history if row.val is not None}
    now = measured[history[-1].epoch]
    n, left, stood = now.n, now.figures[weak], now.figures[strong]
    assert now.alone is not None
    weak_alone = now.alone - round((left - stood) * n)
    low, _ = paired_interval(Paired(n, now.alone, weak_alone, p_value=math.nan))
    if stood < left / 2 and low > GAP:
        return f"{left:.1%} of {n} validation images stand by {weak} and {stood:.1%} by {strong}"
    epoch, best = max(measured.items(), key=lambda one: one[1].figures[strong])
    fall = best.figures[strong] - stood
    if fall > FALL and best.figures[weak] - left < fall / 2:
        return f"{strong} was {best.figures[strong]:.1%} in epoch {epoch + 1} and is {stood:.1%} now"
    return ""
