"""What a network answers on the first images of a run: the part of a run's fingerprint that no file can tell."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from satbench.attacks.base import crafting
from satbench.core.errors import FAULTS
from satbench.evaluation.judge import is_random, logits_of


@dataclass(frozen=True)
class Answers:
    """What a network gave: `bits` of logits and gradients, how many `outputs`, and whether it draws random numbers.

    `logits` are those of all images, `slopes` the lengths of their gradients, none for a network without gradients.
    """

    bits: bytes
    outputs: int
    random: bool
    logits: list[float]
    slopes: list[float]


def answers(model: nn.Module, x: Tensor, y: Tensor, at_once: int) -> Answers:
    """A network's logits and input gradients on images x (N, C, H, W), in eval mode under a fixed seed.

    `y` are all labels of the run, for `logits_of`, whose `BadInput` is raised. The gradient is of the sum of logits
    with weights 1/K to 1, which no softmax saturates; it is taken `at_once` images at a time. A network without
    gradients contributes that fact. Where a device does not repeat its bits, the length of each gradient to two digits
    stands for them. The global generator is left seeded.
    """
    torch.manual_seed(0)
    with crafting(model), torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):
        logits = logits_of(model, x, y)
        lengths: list[float] = []
        try:
            slopes = _slopes(model, x, at_once)
            again = slopes if x.device.type == "cpu" else _slopes(model, x, at_once)
            found = _bits(slopes)
            lengths = slopes.double().flatten(1).norm(dim=1).nan_to_num().tolist()
            if found != _bits(again):
                found = " ".join(f"{length:.1e}" for length in lengths).encode()
        except torch.OutOfMemoryError:
            raise
        except FAULTS as error:
            found = type(error).__name__.encode()
        random = is_random(model, x, logits)
    return Answers(_bits(logits) + found, logits.shape[1], random, logits.flatten().tolist(), lengths)


def _slopes(model: nn.Module, x: Tensor, at_once: int) -> Tensor:
    torch.manual_seed(0)
    found: list[Tensor] = []
    with torch.enable_grad():
        for part in torch.split(x, at_once):
            part = part.clone().requires_grad_()
            logits = model(part).float()
            weights = torch.arange(1, logits.shape[1] + 1, device=x.device) / logits.shape[1]
            found += torch.autograd.grad((logits * weights).sum(), part)
    return torch.cat(found)


def _bits(tensor: Tensor) -> bytes:
    bits: bytes = tensor.detach().float().cpu().contiguous().numpy().tobytes()
    return bits
