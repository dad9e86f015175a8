"""Activation checkpointing: a block keeps its input alone and is computed again in the backward pass.

Source: Chen et al. 2016 (arXiv 1604.06174), by `torch.utils.checkpoint`. Where the network's arithmetic repeats its own
bits, as on a CPU, logits and gradients are those of the plain pass to the bit.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from satbench.core.errors import BadInput

CHAINS = (nn.Sequential, nn.ModuleList)


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks that can be recomputed one by one, such as residual blocks, in the order of the modules.

    A block is a member of an `nn.Sequential` or `nn.ModuleList` that has at least two modules with parameters and is no
    chain of blocks itself. Raises `BadInput` for a network without one.
    """
    found = _blocks_below(model)
    if not found:
        raise BadInput(
            "speed.activation_checkpointing needs a network with blocks in an nn.Sequential or nn.ModuleList, such as "
            "a ResNet, and this one has none; leave it out, or set accumulation"
        )
    return found


@contextmanager
def recomputed(blocks: Sequence[nn.Module]) -> Iterator[None]:
    """Let the blocks recompute their activations, for passes whose forward and backward both lie inside.

    Modules, names and states stay as they are, and nothing is left behind, also after an error. Running statistics of
    batch norms move once, and random numbers are drawn again as they were. A backward pass raises `BadInput` where the
    block has changed since its forward pass, as by another mode, since it would be that of another network.
    """
    before = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        block.forward = partial(_checkpointed, block, block.forward)
    try:
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            del block.forward
            if own is not None:
                block.forward = own


def _blocks_below(module: nn.Module) -> list[nn.Module]:
    found: list[nn.Module] = []
    for child in module.children():
        found += [child] if isinstance(module, CHAINS) and _is_block(child) else _blocks_below(child)
    return found


def _is_block(module: nn.Module) -> bool:
    if isinstance(module, CHAINS):
        return False
    with_parameters = [part for part in module.modules() if next(part.parameters(recurse=False), None) is not None]
    return len(with_parameters) > 1 and len(_blocks_below(module)) < 2  # several: a stage, which is a chain of blocks


def _checkpointed(block: nn.Module, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    seen = _state(block)
    return checkpoint(
        forward, *args, use_reentrant=False, context_fn=lambda: (nullcontext(), _again(block, seen)), **kwargs
    )


def _learning(block: nn.Module) -> list[_BatchNorm]:
    return [module for module in block.modules() if isinstance(module, _BatchNorm) and module.training]


def _state(block: nn.Module) -> list[object]:
    """What the block's output depends on: the modes, and the version of each tensor that a forward pass only reads."""
    moved = {id(buffer) for norm in _learning(block) for buffer in norm.buffers(recurse=False)}
    read = [tensor for tensor in chain(block.parameters(), block.buffers()) if id(tensor) not in moved]
    modes = [(type(module), module.training) for module in block.modules()]
    return [*modes, *((id(tensor), tensor._version, tensor.requires_grad) for tensor in read)]


@contextmanager
def _again(block: nn.Module, seen: list[object]) -> Iterator[None]:
    """Surrounds the second forward pass, in which batch norms move copies of their running statistics."""
    if _state(block) != seen:
        raise BadInput(
            f"speed.activation_checkpointing cannot recompute a {type(block).__name__}: its mode, buffers or weights "
            "have changed since its forward pass; leave it out"
        )
    own = [(norm, name, buffer) for norm in _learning(block) for name, buffer in norm.named_buffers(recurse=False)]
    for norm, name, buffer in own:
        setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, name, buffer in own:
            setattr(norm, name, buffer)
