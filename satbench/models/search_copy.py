"""A private copy of a network for attacks to search on: frozen, batch norms folded, channels last.

Predictions are always judged on the network itself; the copy only makes the search faster.
"""

import copy
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from satbench.core.errors import FAULTS, BadInput, reason
from satbench.models.folding import LINEAR, NORMS, fold_norms, folded_weights, near, scale_and_shift
from satbench.models.precision import Autocast
from satbench.numerics.modes import evaluating

PRECISIONS = ("float32", "bf16")


@dataclass(frozen=True)
class SearchCopy:
    """A network to search on, and a description of how it was made.

    private: `module` shares nothing with the original, is in eval mode and frozen. Where no copy computes as the
    original does, `module` is the original itself, to be run under `attacks.base.crafting`.
    folded: names of the layers and of the batch norms that were folded into them. scaled: names of the batch norms that
    became a `ScaleShift`. channels_last: the memory layout.
    """

    module: nn.Module
    how: str
    private: bool
    original: nn.Module
    folded: tuple[tuple[str, str], ...] = ()
    scaled: tuple[str, ...] = ()
    channels_last: bool = False

    @property
    def network(self) -> nn.Module:
        """The copy itself, in which modules have the names of the original, out of what casts its logits."""
        return self.module.net if isinstance(self.module, Autocast) else self.module

    def refresh(self) -> None:
        """Write the present parameters and buffers of the original into the copy, in place and on its device.

        Afterwards the copy has the bits of a new one. Anything else that a network keeps is not copied.
        """
        if not self.private:
            return
        with torch.no_grad():
            copied = _tensors(self.network)
            written = set()
            part = self.original.get_submodule
            for layer, norm in self.folded:
                for name, value in zip(("weight", "bias"), folded_weights(part(layer), part(norm)), strict=True):
                    written.add(copied[f"{layer}.{name}"].copy_(value))
            for norm in self.scaled:
                for name, value in zip(("scale", "shift"), scale_and_shift(part(norm)), strict=True):
                    written.add(copied[f"{norm}.{name}"].copy_(value))
            present = _tensors(self.original)
            for name, tensor in copied.items():
                if tensor not in written:
                    tensor.copy_(present[name])


def search_copy(model: nn.Module, probe: Tensor, precision: str = "float32", scale: bool = False) -> SearchCopy:
    """The fastest copy of `model` whose logits on `probe` are the model's own.

    probe: some images (N, C, H, W) as the model takes them, on its device; the form chosen depends on them, so equal
    runs need equal ones. A copy is used when its logits are everywhere within 1e-4 of the largest and predict the same;
    a form that fails or differs is replaced by a simpler one, in the end by the model itself. It costs the memory of
    the weights once. The model's weights, modes, hooks and gradients, and torch's generators, stay as they were.

    precision: "bf16" makes convolutions and linear layers compute in bfloat16, so the logits are only near the model's;
    they come out in float32, and so do gradients. scale: whether 2d batch norms that cannot be folded become a
    `ScaleShift`, which is faster on a CPU and rounds differently. Raises `BadInput` for an unknown precision, and where
    the model cannot be copied or run in bfloat16.
    """
    if precision not in PRECISIONS:
        raise BadInput(f"unknown precision {precision!r} of a search; give {' or '.join(PRECISIONS)}")
    planes = probe.ndim == 4 and any(isinstance(part, nn.Conv2d) for part in model.modules())
    failure = ""
    with torch.random.fork_rng(devices=[probe.device] if probe.device.type == "cuda" else []):
        wanted = _logits(model, probe)
        for fold, channels_last in ((True, planes), (True, False), (False, planes), (False, False)):
            try:
                with torch.no_grad():  # else the weights of a scripted model's copy hang on the model's own
                    search = copy.deepcopy(model).eval()
                for parameter in search.parameters():
                    parameter.requires_grad_(False)
                folded, scaled = fold_norms(search, probe[:1], scale) if fold else ((), ())
                if channels_last:
                    search = search.to(memory_format=torch.channels_last)  # convolutions bring their input into it
                found = _logits(search, probe)
            except (*FAULTS, copy.Error, pickle.PickleError) as error:
                failure = failure or reason(error)
                continue
            if not _equal(found, wanted):
                failure = failure or "other logits"
                continue
            done = [f"folded {len(folded)} batch norm{'s' * (len(folded) != 1)}"] if folded else []
            done += [f"{len(scaled)} as scale and shift"] if scaled else []
            done += ["channels last"] if channels_last else []
            how = ", ".join(done or ["a plain copy"]) + (
                f", because a faster form failed ({failure})" if failure else ""
            )
            made = SearchCopy(search, f"{how}, float32", True, model, folded, scaled, channels_last)
            if precision == "bf16":
                off = _difference_in_bf16(search, probe, wanted)
                return replace(made, module=Autocast(search).eval(), how=f"{how}, bf16 with logits off by {off:.1%}")
            return made
    if precision == "bf16":
        raise BadInput(f"no copy of the model computes as it does ({failure}); search in float32")
    return SearchCopy(model, f"the model itself, because no copy of it computes the same ({failure})", False, model)


def training_copy(model: nn.Module, probe: Tensor, precision: str = "float32") -> SearchCopy:
    """A search copy of a network that is going to be trained, for `SearchCopy.refresh` to keep up to date.

    The batch norms of a fresh network hardly change their input, so that a wrong fold would not show. What can be
    folded is decided, and compared as in `search_copy`, while they have other values; the copy, refreshed, has to agree
    with the model once more when they have their own again. `precision` "bf16" is bfloat16 autocast, as in training.
    """
    exact = torch.backends.cudnn.flags(enabled=False)  # whose convolutions round to TF32, by more than 1e-4
    with exact, torch.random.fork_rng(devices=[probe.device] if probe.device.type == "cuda" else []):
        with _moved_norms(model):
            made = search_copy(model, probe, scale=precision == "float32")
        made.refresh()
        if not _equal(_logits(made.module, probe), _logits(model, probe)):
            return SearchCopy(model, "the model itself, because a refreshed copy has other logits", False, model)
    if precision == "bf16" and made.private:
        _cast_layers(made.module)
        return replace(made, module=Autocast(made.module).eval(), how=made.how.replace("float32", "bf16"))
    return made


def _cast_layers(search: nn.Module) -> None:
    """Keep the weights in bfloat16 that autocast would cast at every pass."""
    for module in search.modules():
        if isinstance(module, LINEAR):
            module.to(torch.bfloat16)


def _difference_in_bf16(search: nn.Module, probe: Tensor, wanted: Tensor) -> float:
    """Cast its layers to bfloat16; the largest difference of its logits under autocast, relative to the largest."""
    _cast_layers(search)
    try:
        found = _logits(Autocast(search), probe)
    except FAULTS as error:
        raise BadInput(f"the model does not run in bfloat16 ({reason(error)}); search in float32") from error
    off = float((found - wanted).abs().max() / wanted.abs().max())
    if not off < 1:
        raise BadInput("the model's logits in bfloat16 have nothing in common with its own; search in float32")
    return off


@contextmanager
def _moved_norms(model: nn.Module) -> Iterator[None]:
    """Give the batch norms statistics and factors such as training gives them, and restore their bits afterwards."""
    draws = torch.Generator().manual_seed(0)
    ranges = {"weight": (0.5, 1.5), "bias": (-0.5, 0.5), "running_mean": (-0.5, 0.5), "running_var": (0.5, 1.5)}
    norms = [module for module in model.modules() if isinstance(module, NORMS)]
    found = [(getattr(norm, name), low, high) for norm in norms for name, (low, high) in ranges.items()]
    moved = [(tensor, tensor.detach().clone(), low, high) for tensor, low, high in found if tensor is not None]
    with torch.no_grad():
        for tensor, _, low, high in moved:
            tensor.copy_(torch.empty(tensor.shape).uniform_(low, high, generator=draws))
    try:
        yield
    finally:
        with torch.no_grad():
            for tensor, before, _, _ in moved:
                tensor.copy_(before)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, shared ones by each of their names."""
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


def _logits(model: nn.Module, probe: Tensor) -> Tensor:
    """In eval mode, with the same random numbers at every call; modes and buffers are put back."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    torch.manual_seed(0)
    try:
        with evaluating(model), torch.no_grad():
            logits: Tensor = model(probe.clone())
            return logits.detach().clone()
    finally:
        for buffer, kept in buffers:
            if not torch.equal(buffer, kept):
                buffer.copy_(kept)


def _equal(found: Tensor, wanted: Tensor) -> bool:
    return near(found, wanted) and torch.equal(found.argmax(-1), wanted.argmax(-1))
