"""How many images and threads a network gets by default."""

import torch
from torch import nn

from satbench.attacks.base import crafting
from satbench.core.errors import FAULTS
from satbench.models.buffers import buffers_kept

LARGEST = 256
BUDGET = 4 * 2**30  # bytes
# bytes held at most while an input gradient is taken, for each byte that modules put out: of torchvision's and our
# networks at 224 pixels 0.4 (ConvNeXt) to 0.8 (ResNets) and 1.03 (ResNet-50 with SmoothReLU) were measured
PEAK = 1.25
# activations for one image: on two cores that six other processes kept busy, two threads took 8 to 90 times as long as
# one on networks of up to 6,000, 12 to 15 times on 250,000 to 500,000, and twice as long on 2,000,000
SMALL = 2**19


def usual_batch_size(model: nn.Module, shape: tuple[int, ...], device: torch.device) -> int:
    """The largest power of two, 1 to 256, with which an attack on images (C, H, W) keeps within 4 GiB of activations.

    It depends on the network and the shape alone, never on the machine, so that equal commands round equally.
    A network that fails on one image gets 256; the measurement will say what is wrong with it.
    """
    activations = _activations(model, shape, device)
    if activations is None:
        return LARGEST
    fitting = int(BUDGET / (4 * PEAK * activations))
    return min(LARGEST, 1 << max(0, fitting.bit_length() - 1))


def usual_threads(model: nn.Module, shape: tuple[int, ...], device: torch.device) -> int:
    """One thread for a network of at most 2**19 activations an image (C, H, W) on a CPU, else torch's present number.

    The threads of one operation wait for each other, which on a busy machine takes longer than a small operation does.
    """
    activations = _activations(model, shape, device) if device.type == "cpu" else None
    return torch.get_num_threads() if activations is None or activations > SMALL else 1


def _activations(model: nn.Module, shape: tuple[int, ...], device: torch.device) -> int | None:
    """The elements that all modules put out for one image; None where the network fails on it or takes no hooks."""
    elements = 1

    def count(module: nn.Module, given: object, output: object) -> None:
        nonlocal elements
        elements += output.numel() if isinstance(output, torch.Tensor) else 0

    hooks = []
    fork = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
    try:
        for module in model.modules():
            hooks.append(module.register_forward_hook(count))  # a scripted module takes none
        with fork, buffers_kept(model), crafting(model), torch.no_grad():
            model(torch.zeros(1, *shape, device=device))
    except FAULTS:
        return None
    finally:
        for hook in hooks:
            hook.remove()
    return elements
