"""What an attack ascends: a float per sample (N,), larger when the model is more wrong.

An untargeted loss takes logits (N, K) and labels (N,), a targeted one the classes to reach (N,) as well, and `kl` takes
logits and the logits on the clean images.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from satbench.core.errors import BadInput


def ce(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of the true label."""
    return functional.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest wrong logit minus the true one (Carlini & Wagner 2017, arXiv 1608.04644, f6 without its floor)."""
    true = logits.gather(1, y[:, None])[:, 0]
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - true


def margin_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The target's logit minus the true one."""
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None]))[:, 0]


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """The margin over the gap of the first to the third logit (Croce & Hein 2020, arXiv 2003.01690, equation 6).

    Raises `BadInput` for fewer than three classes, where it is undefined.
    """
    if logits.shape[1] < 3:
        raise BadInput(f"the dlr loss needs at least 3 classes, the model has {logits.shape[1]}; use loss=margin")
    ordered = logits.sort(dim=1, descending=True).values
    return margin(logits, y) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


def dlr_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The targeted margin over the gap of the first logit to the mean of the third and fourth (equation 7 there).

    Raises `BadInput` for fewer than four classes, where it is undefined.
    """
    if logits.shape[1] < 4:
        raise BadInput(
            f"the dlr-targeted loss needs at least 4 classes, the model has {logits.shape[1]}; use loss=margin-targeted"
        )
    top = logits.topk(4, dim=1).values
    return margin_targeted(logits, y, target) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def kl(logits: Tensor, clean: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the prediction from the clean one, in nats (TRADES, arXiv 1901.08573)."""
    found, wanted = functional.log_softmax(logits, dim=1), functional.log_softmax(clean, dim=1)
    return functional.kl_div(found, wanted, reduction="none", log_target=True).sum(1)


TARGETED: dict[str, Callable[..., Tensor]] = {"margin-targeted": margin_targeted, "dlr-targeted": dlr_targeted}
LOSSES: dict[str, Callable[..., Tensor]] = {"ce": ce, "margin": margin, "dlr": dlr, "kl": kl, **TARGETED}


def likeliest_wrong(logits: Tensor, y: Tensor, count: int) -> Tensor:
    """The `count` classes of largest logit other than `y`, int64 (N, min(count, K - 1)), the likeliest first."""
    return logits.scatter(1, y[:, None], -torch.inf).topk(min(count, logits.shape[1] - 1), dim=1).indices
