"""Averages of the weights along a run, which are then evaluated, selected and kept in place of the weights."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from satbench.core.errors import BadInput
from satbench.core.parameters import Index, Share, ShareBelow1, check
from satbench.numerics.modes import evaluating

FirstEpoch = Annotated[Index, Field(description="the first epoch to average, a whole number from 0")]


class Average(ABC):
    """`module`: a frozen copy of the network in eval mode that holds the average."""

    def __init__(self, net: nn.Module) -> None:
        self.module = copy.deepcopy(net).eval().requires_grad_(False)

    first_epoch = 0  # whose end has an average

    @property
    @abstractmethod
    def ready(self) -> bool:
        """Whether there is an average yet."""

    @abstractmethod
    def share(self, number: int, total: int) -> float:
        """How far the average moves towards the parameters after update `number` from 0 of `total`: 1 copies them."""

    def after_update(self, net: nn.Module, number: int, total: int) -> None:
        """Called after each of `total` updates; `number` counts those before it."""
        if share := self.share(number, total):
            self._move(net, share)

    @abstractmethod
    def after_epoch(self, net: nn.Module, epoch: int, batches: Callable[[], Iterable[Tensor]]) -> None:
        """Called after each epoch, counted from 0; `batches` gives the clean training images once."""

    def state(self) -> dict[str, Tensor]:
        """Everything that `load` needs to go on exactly: the tensors themselves, not copies."""
        return dict(self.module.state_dict())

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state()`; raises `BadInput`, before anything is changed, for that of another average."""
        own = self.state()
        if {name: tensor.shape for name, tensor in own.items()} != {name: one.shape for name, one in state.items()}:
            raise BadInput("the average of the weights was saved for another network or in another way; train again")
        for name, tensor in own.items():
            tensor.copy_(state[name])

    @torch.no_grad()
    def _move(self, net: nn.Module, share: float) -> None:
        """Interpolate from the averaged to the present parameters by `share`; 1 copies exactly."""
        torch._foreach_lerp_(list(self.module.parameters()), list(net.parameters()), share)

    @torch.no_grad()
    def _copy_buffers(self, net: nn.Module) -> None:
        for averaged, present in zip(self.module.buffers(), net.buffers(), strict=True):
            averaged.copy_(present)


class EMA(Average):
    """Exponential moving average of the parameters, moved after every update.

    For the first `warmup` share of all updates it is the network itself; then the old average weighs
    `min(decay, (1 + k) / (10 + k))` in update k from 0. Batch norm's statistics are those of the network at the end of
    each epoch. Gowal et al. 2020 (arXiv 2010.03593); the numbers are those of Rebuffi et al. 2021 (arXiv 2103.01946)
    as re-implemented in github.com/imrahulr/adversarial_robustness_pytorch. Raises `BadInput` for a decay outside
    [0, 1] or a warm-up outside [0, 1).
    """

    def __init__(self, net: nn.Module, decay: float = 0.995, warmup: float = 0.025) -> None:
        check("decay of averaging 'ema'", decay, Share)
        check("warmup of averaging 'ema'", warmup, ShareBelow1)
        super().__init__(net)
        self.decay, self.warmup = decay, warmup

    @property
    def ready(self) -> bool:
        return True

    def share(self, number: int, total: int) -> float:
        k = number - round(self.warmup * total)
        return 1 - (min(self.decay, (1 + k) / (10 + k)) if k >= 0 else 0.0)

    def after_epoch(self, net: nn.Module, epoch: int, batches: Callable[[], Iterable[Tensor]]) -> None:
        self._copy_buffers(net)


class SWA(Average):
    """Stochastic weight averaging: the mean of the parameters at the ends of the epochs from `start` on.

    Batch norm's statistics are taken anew for it, see `refresh_batch_norm`. Izmailov et al. 2018 (arXiv 1803.05407), in
    adversarial training as Chen et al. 2021 (ICLR, "Robust Overfitting may be mitigated by properly learned
    smoothening"). Raises `BadInput` for a start that is no whole number from 0.
    """

    def __init__(self, net: nn.Module, start: int | None = None) -> None:
        first_epoch: int = check("start of averaging 'swa'", start, FirstEpoch)
        super().__init__(net)
        self.first_epoch, self.count = first_epoch, torch.zeros((), dtype=torch.int64)

    @property
    def ready(self) -> bool:
        return int(self.count) > 0

    def share(self, number: int, total: int) -> float:
        return 0.0

    def after_epoch(self, net: nn.Module, epoch: int, batches: Callable[[], Iterable[Tensor]]) -> None:
        if epoch >= self.first_epoch:
            self.count += 1
            self._move(net, 1 / int(self.count))
            self._copy_buffers(net)
            refresh_batch_norm(self.module, batches())

    def state(self) -> dict[str, Tensor]:
        return {"epochs averaged": self.count, **super().state()}


def none(net: nn.Module) -> None:
    """The weights themselves."""


AVERAGES: dict[str, Callable[..., Average | None]] = {"none": none, "ema": EMA, "swa": SWA}


@torch.no_grad()
def refresh_batch_norm(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Take the running statistics of every batch norm anew from one pass over `batches` of images (N, C, H, W).

    They become the batches' means and unbiased variances, averaged with the batches' sizes as weights. Everything else
    is in eval mode meanwhile; modes and momenta are left as they were. Without batch norm no batch is read.
    """
    norms = [one for one in module.modules() if isinstance(one, _BatchNorm) and one.track_running_stats]
    if not norms:
        return
    momenta: list[Any] = [norm.momentum for norm in norms]
    seen = 0
    try:
        with evaluating(module):
            for norm in norms:
                norm.reset_running_stats()
                norm.train()
            for x in batches:
                seen += len(x)
                for norm in norms:
                    norm.momentum = len(x) / seen
                module(x)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
