"""Accuracy without an attack, against what the network's card claims, or against chance without one."""

from satbench.results.metrics import is_at_chance
from satbench.trust.seen import Seen, rate

FAR, APART = 0.10, 0.02  # of 1, where the difference is not due to chance


def against_card(measured: tuple[int, int], expected: tuple[float, int]) -> Seen:
    """`measured`: right, and of how many images; `expected`: a share, and of how many (Fisher's exact test)."""
    from scipy.stats import fisher_exact

    right, n = measured
    share, claimed_n = expected
    claimed = round(share * claimed_n)
    p_value = float(fisher_exact([[right, n - right], [claimed, claimed_n - claimed]]).pvalue)
    below = share - right / n
    said = (
        f"It is right on {rate(right, n)} images without an attack; its card claims {100 * share:.1f}% of {claimed_n} "
        f"(p {p_value:.2g})"
    )
    if below > FAR and p_value < 0.001:
        return Seen("fail", f"{said}: other weights, images or pixels than the card's.")
    if abs(below) > APART and p_value < 0.01:
        return Seen("suspicious", f"{said}: look for other weights, images or pixels than the card's.")
    return Seen("pass", f"{said}.")


def against_chance(measured: tuple[int, int], classes: int) -> Seen:
    """`measured`: right, and of how many images."""
    right, n = measured
    said = f"It is right on {rate(right, n)} images without an attack, where chance is {1 / classes:.1%}"
    if is_at_chance(right, n, classes):
        return Seen("suspicious", f"{said}: check that labels and preprocessing are those of the network.")
    return Seen("pass", f"{said}.")
