"""A private copy of a network for attacks to search on: frozen, batch norms folded, channels last.

Predictions are always judged on the network itself; the copy only makes the search faster.
"""

import copy
import pickle
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

from satbench.errors import FAULTS, BadInput, reason
from satbench.models.precision import Autocast
from satbench.modes import evaluating

TOLERANCE = 1e-4  # of the largest absolute value compared
PRECISIONS = ("float32", "bf16")
LINEAR = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


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
                for name, value in zip(("weight", "bias"), _folded(part(layer), part(norm)), strict=True):
                    written.add(copied[f"{layer}.{name}"].copy_(value))
            for norm in self.scaled:
                for name, value in zip(("scale", "shift"), _scaled(part(norm)), strict=True):
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
    `ScaleShift`, which is faster on a CPU and rounds otherwise. Raises `BadInput` for an unknown precision, and where
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
                search, folded, scaled = _form(model, probe[:1], fold, scale, channels_last)
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
            how = ", ".join(done or ["a plain copy"]) + (f", for a faster form failed ({failure})" if failure else "")
            made = SearchCopy(search, f"{how}, float32", True, model, folded, scaled, channels_last)
            if precision == "bf16":
                off = _difference_in_bf16(search, probe, wanted)
                return replace(made, module=Autocast(search).eval(), how=f"{how}, bf16 with logits off by {off:.1%}")
            return made
    if precision == "bf16":
        raise BadInput(f"no copy of the model computes as it does ({failure}); search in float32")
    return SearchCopy(model, f"the model itself, for no copy of it would do ({failure})", False, model)


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
            return SearchCopy(model, "the model itself, for a refreshed copy has other logits", False, model)
    if precision == "bf16" and made.private:
        _cast_layers(made.module)
        return replace(made, module=Autocast(made.module).eval(), how=made.how.replace("float32", "bf16"))
    return made


def _form(
    model: nn.Module, image: Tensor, fold: bool, scale: bool, channels_last: bool
) -> tuple[nn.Module, tuple[tuple[str, str], ...], tuple[str, ...]]:
    """A frozen copy in eval mode, the layers and batch norms that were folded, and the batch norms that were scaled."""
    with torch.no_grad():  # else the weights of a scripted model's copy hang on the model's own
        search = copy.deepcopy(model).eval()
    for parameter in search.parameters():
        parameter.requires_grad_(False)
    folded, scaled = _fold(search, image, scale) if fold else ((), ())
    if channels_last:
        search = search.to(memory_format=torch.channels_last)  # convolutions then bring their input into it
    return search, folded, scaled


class ScaleShift(nn.Module):
    """A 2d batch norm of a frozen network in eval mode; torch's also sums up the gradients of its factors."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        scale, shift = _scaled(norm)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.get_buffer("shift"), x, self.get_buffer("scale"))


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
    return _near(found, wanted) and torch.equal(found.argmax(-1), wanted.argmax(-1))


def _near(found: Tensor, wanted: Tensor) -> bool:
    return found.shape == wanted.shape and bool((found - wanted).abs().max() <= TOLERANCE * wanted.abs().max())


def _fold(model: nn.Module, image: Tensor, scale: bool) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Fold each batch norm that is all that a convolution or linear layer feeds into that layer; the names of both.

    With `scale` the other 2d batch norms become a `ScaleShift`; their names.

    A pass over one image shows which layer feeds which norm, so a forward may be any Python. A layer or norm with
    hooks, that is called twice, or that does not compute what its type says is left alone.
    """
    watch = _Watch(model)
    with torch.no_grad(), watch:
        model(image)
    for hook in watch.hooks:
        hook.remove()
    pairs = watch.pairs()
    names = {module: name for name, module in model.named_modules()}
    for layer, norm in pairs:
        _set(layer, *_folded(layer, norm))
    behind = {norm: _behind(norm) for _, norm in pairs}
    alone = [norm for norm in watch.norms if scale and type(norm) is nn.BatchNorm2d and norm not in behind]
    behind |= {norm: ScaleShift(norm) for norm in alone}
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child in behind:
                parent._modules[name] = behind[child]
    return tuple((names[layer], names[norm]) for layer, norm in pairs), tuple(names[norm] for norm in alone)


def _folded(layer: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias, in the layer's dtype, of the layer that computes both; computed in float64."""
    scale = _scale(norm)
    weight = _exact(layer.weight, 0) * scale.view(-1, *[1] * (layer.weight.ndim - 1))
    bias = (_exact(layer.bias, 0) - _exact(norm.running_mean, 0)) * scale + _exact(norm.bias, 0)
    like = layer.weight.detach()
    return weight.to(like), bias.to(like)


def _scaled(norm: Any) -> tuple[Tensor, Tensor]:
    """Factor and summand (C, 1, 1) that a 2d batch norm applies, in the dtype of its statistics."""
    scale = _scale(norm)
    shift = _exact(norm.bias, 0) - _exact(norm.running_mean, 0) * scale
    like = norm.running_mean
    return scale.to(like).view(-1, 1, 1), shift.to(like).view(-1, 1, 1)


def _scale(norm: Any) -> Tensor:
    scale: Tensor = _exact(norm.weight, 1) / (_exact(norm.running_var, 1) + norm.eps).sqrt()
    return scale


def _exact(tensor: Tensor | None, missing: float) -> Tensor:
    return torch.tensor(missing).double() if tensor is None else tensor.detach().double()


def _set(layer: Any, weight: Tensor, bias: Tensor) -> None:
    layer.weight, layer.bias = (nn.Parameter(tensor, requires_grad=False) for tensor in (weight, bias))


def _behind(norm: nn.Module) -> nn.Module:
    """What a batch norm computes besides, under the same names: nothing, or its parts, such as timm's activation."""
    return (nn.Sequential(OrderedDict(norm.named_children())) if len(norm._modules) else nn.Identity()).eval()


class _Watch(TorchFunctionMode):
    """Sees, while it is on, which layer's output each batch norm takes and whether anyone else takes it too."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.fed = WeakTensorKeyDictionary()  # output of a layer: the layer and its input
        self.shared: set[nn.Module] = set()  # layers whose output has other users than a norm
        self.calls: Counter[nn.Module] = Counter()
        self.found: list[tuple[nn.Module, nn.Module]] = []
        self.norms: list[nn.Module] = []  # that may be replaced
        self.taken: Tensor | None = None  # by the norm that is running
        self.hooks: list[Any] = []
        for module in model.modules():
            if isinstance(module, LINEAR) and _is_plain(module) and module._parameters.get("weight") is not None:
                self.hooks.append(module.register_forward_hook(self._after_layer))
            if isinstance(module, NORMS) and _is_plain(module) and module.running_mean is not None:
                self.norms.append(module)
                self.hooks.append(module.register_forward_pre_hook(self._before_norm))
                self.hooks.append(module.register_forward_hook(self._after_norm))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor) and value is not self.taken and value in self.fed:
                self.shared.add(self.fed[value][0])
        return func(*args, **(kwargs or {}))

    def _after_layer(self, layer: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        self.calls[layer] += 1
        if len(given) == 1 and isinstance(output, Tensor):
            self.fed[output] = (layer, given[0])

    def _before_norm(self, norm: nn.Module, given: tuple[Any, ...]) -> None:
        self.calls[norm] += 1
        self.taken = given[0] if given and given[0] in self.fed else None

    def _after_norm(self, norm: nn.Module, given: tuple[Any, ...], output: Any) -> None:
        taken, self.taken = self.taken, None
        if taken is not None:
            layer, layer_given = self.fed[taken]
            if _can_stand_for(layer, layer_given, norm, output):
                self.found.append((layer, norm))

    def pairs(self) -> list[tuple[Any, Any]]:
        return [
            (layer, norm)
            for layer, norm in self.found
            if layer not in self.shared and self.calls[layer] == self.calls[norm] == 1
        ]


def _is_plain(module: nn.Module) -> bool:
    """In eval mode and without hooks, which a module that takes its place would not have."""
    hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks
    return not hooked and not module.training


def _can_stand_for(layer: Any, given: Tensor, norm: Any, output: Tensor) -> bool:
    """Whether the folded layer, on the input it had, gives the norm's output; also of a subclass with its own ways."""
    if len(norm.running_mean) != len(layer.weight):
        return False
    own = layer.weight, layer.bias
    _set(layer, *_folded(layer, norm))
    try:
        return _near(_behind(norm)(layer.forward(given)), output)
    finally:
        layer.weight, layer.bias = own
