"""Adversarial weight perturbation (Wu et al. 2020, arXiv 2004.05884) around another method."""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from satbench.core.errors import BadInput
from satbench.core.lookup import find, nearest
from satbench.core.parameters import FromZero, Positive, check_fields
from satbench.core.plugins import is_reference
from satbench.methods.base import Method, Passes, Step

INHERITED = (
    *("known_from", "chosen_by", "crafts", "labelled", "loss_passes", "needs_trained", "norms", "reads"),
    *("separable", "two_modes", "soft_targets", "start_epoch", "views"),
)


@dataclass(frozen=True)
class AWP(Method):
    """The inner method, its update taken at weights that were first moved uphill on its own loss.

    Every weight w of more than one dimension moves by gamma ||w|| g / ||g||, g the gradient of the inner loss at the
    images crafted before. Loss, backward and the optimizer's step, with its momentum and weight decay, see the moved
    weights; afterwards they move back, and an update by nothing leaves every bit as it was. The running statistics see
    only the forward passes of the update.

    The authors have it around PGD training, TRADES and MART, Wu et al. 2024 (arXiv 2305.12118) around ADR. Any other
    inner method is refused; one of the user's own states its source as `awp_source`.

    gamma: 0.01 of the released code around PGD training; it has 0.005 around TRADES.
    warmup_epochs: how long the weights stay where they are; 0 there around PGD training. Around TRADES it has 10 and
        counts epochs from 1, which is 9 here.

    The code's learning rate of the proxy is no parameter: it cancels in g / ||g||.
    """

    inner: Method
    gamma: Positive = 0.01
    warmup_epochs: FromZero = 0

    def __post_init__(self) -> None:
        check_fields(self, "awp")
        if not self.inner.awp_source:
            from satbench.methods import METHODS

            names = {make: name for name, make in METHODS.items()}
            joined = " or ".join(name for make, name in names.items() if getattr(make, "awp_source", ""))
            inner = names.get(type(self.inner), type(self.inner).__name__)
            raise BadInput(f"awp around {inner} is undefined: no source joins them; give method={joined}")
        if self.inner.replays > 1 or self.inner.second_order:
            raise BadInput(
                f"awp around {type(self.inner).__name__} is undefined: it is for methods with one update a batch and a "
                "loss without a gradient"
            )
        inner = self.inner.paper
        object.__setattr__(self, "paper", f"Wu et al. 2020, arXiv 2004.05884{f', around {inner}' if inner else ''}")
        for name in INHERITED:
            object.__setattr__(self, name, getattr(self.inner, name))

    @property
    def passes(self) -> Passes:
        whole, again = self.inner.passes, self.inner.loss_passes
        return Passes(whole.forward + again.forward, whole.backward + again.backward)

    def mean_passes(self, epochs: float) -> Passes:
        whole, again = self.inner.mean_passes(epochs), self.inner.loss_passes
        return Passes(whole.forward + again.forward, whole.backward + again.backward)

    @property
    def crafting(self) -> Passes:
        return self.inner.crafting

    def refuse_length(self, epochs: float, updates: int) -> None:
        self.inner.refuse_length(epochs, updates)
        if self.warmup_epochs >= epochs:
            raise BadInput(
                f"awp starts after epoch {self.warmup_epochs:g} of {epochs:g}; set method.warmup_epochs below that"
            )

    def initial_state(self, images: int, classes: int, batch: tuple[int, ...]) -> dict[str, Tensor]:
        return self.inner.initial_state(images, classes, batch)

    def perturb(self, model: nn.Module, step: Step) -> Tensor:
        return self.inner.perturb(model, step)

    def loss(self, model: nn.Module, x_adv: Tensor, step: Step) -> Tensor:
        return self.inner.loss(model, x_adv, step)

    @contextmanager
    def around_update(self, model: nn.Module, x_adv: Tensor, step: Step) -> Iterator[None]:
        with self.inner.around_update(model, x_adv, step):
            if step.epoch < self.warmup_epochs:
                yield
                return
            named = [(name, weight) for name, weight in model.named_parameters() if weight.requires_grad]
            weights = [weight for name, weight in named if "weight" in name and weight.dim() > 1]
            uphill = step.mean(self._uphill(model, weights, images, part) for part, images in step.split(x_adv))
            uphill = step.processes.mean(uphill, step)
            before = [weight.detach().clone() for weight in weights]
            with torch.no_grad():
                for weight, gradient in zip(weights, uphill, strict=True):
                    weight.add_(self.gamma * weight.norm() / (gradient.norm() + 1e-20) * gradient)
            moved = [weight.detach().clone() for weight in weights]
            try:
                yield
            finally:
                with torch.no_grad():
                    for weight, origin, start in zip(weights, before, moved, strict=True):
                        weight.copy_(origin + (weight - start))

    def begin(self, model: nn.Module, state: dict[str, Tensor], measure: Callable[[], Mapping[str, float]]) -> None:
        self.inner.begin(model, state, measure)

    def after_epoch(self, state: dict[str, Tensor], figures: Mapping[str, float]) -> None:
        self.inner.after_epoch(state, figures)

    def logged(self, state: Mapping[str, Tensor]) -> dict[str, float]:
        return self.inner.logged(state)

    def after_update(self, model: nn.Module, x_adv: Tensor, step: Step) -> None:
        self.inner.after_update(model, x_adv, step)

    def _uphill(self, model: nn.Module, weights: Sequence[Tensor], x_adv: Tensor, step: Step) -> Sequence[Tensor]:
        """The gradient of the inner loss, zero for a weight that it does not use; leaves the buffers as they were."""
        buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        loss = self.inner.loss(model, x_adv, step)
        gradients = torch.autograd.grad(loss, weights, materialize_grads=True)
        with torch.no_grad():
            for buffer, kept in buffers:
                buffer.copy_(kept)
        return gradients


def awp(method: str = "pgd_at", gamma: float = 0.01, warmup_epochs: float = 0, **inner: Any) -> AWP:
    """`AWP` around the named method with the parameters `inner`; an unknown one is refused with the nearest names."""
    from satbench.methods import METHODS, make_method

    if is_reference(method):
        return AWP(make_method(method, inner), gamma, warmup_epochs)
    factory = find(METHODS, method, "method")
    known = ["method", "gamma", "warmup_epochs", *inspect.signature(factory).parameters]
    for key in inner:
        if key not in known:
            raise BadInput(f"unknown parameter {key!r} of method 'awp' around {method!r}; {nearest(key, known)}")
    return AWP(factory(**inner), gamma, warmup_epochs)
