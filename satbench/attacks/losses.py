"""What an attack ascends: a float per sample (N,), larger when the model is more wrong."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from satbench.errors import BadInput


def ce(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of the true label."""
    return functional.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest wrong logit minus the true one (Carlini & Wagner 2017, arXiv 1608.04644, f6 without its floor)."""
    true = logits.gather(1, y[:, None])[:, 0]
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - true


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """The margin over the gap of the first to the third logit (Croce & Hein 2020, arXiv 2003.01690, equation 6).

    Raises `BadInput` for fewer than three classes, where it is undefined.
    """
    if logits.shape[1] < 3:
        raise BadInput(f"the dlr loss needs at least 3 classes, the model has {logits.shape[1]}; use loss=margin")
    ordered = logits.sort(dim=1, descending=True).values
    return margin(logits, y) / (ordered[:, 0] - ordered[:, 2] + 1e-12)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"ce": ce, "margin": margin, "dlr": dlr}
