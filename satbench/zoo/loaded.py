"""A network that can be measured, with what is known of it."""

from dataclasses import dataclass, replace
from typing import Any, Self

from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from satbench.core.errors import BadInput, reason
from satbench.models.precision import float32_ends
from satbench.models.weights import (
    model_digest,
)
from satbench.numerics.modes import evaluating
from satbench.results.schema import ModelInfo

ORIGINAL = "give the torch.nn.Module that it was made from"


@dataclass(frozen=True)
class Loaded:
    """A network in eval mode with what is known of it.

    `dataset`, `image_size` and `train_digest` (of the images) are those it was trained on, `val` and `train_n`
    the sizes of its validation and training splits where these were not the data set's own; `loader` is the image
    loader that its authors evaluate it with; `class_names` those of its outputs, where they are known. `note` is
    printed when it is loaded.
    `module` is the Python module of the user's own callable that built it.
    """

    model: nn.Module
    info: ModelInfo
    dataset: str | None = None
    image_size: int | None = None
    train_digest: str | None = None
    loader: str | None = None
    note: str | None = None
    val: float | str | None = None
    train_n: int | None = None
    class_names: tuple[str, ...] | None = None
    module: str | None = None

    def with_info(self, **changes: Any) -> Self:
        """The same network with other fields of `info`."""
        return replace(self, info=self.info.model_copy(update=changes))


def from_module(model: nn.Module, ref: str, label: str) -> Loaded:
    """A network that was built elsewhere, in the mode it has; raises `BadInput` where its kind cannot be measured.

    Such are networks with weights that are not initialised yet, and compiled forms whose weights are not plain tensors
    or whose mode cannot be set.
    """
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise BadInput(f"{ref}: some weights are not initialised; run the model on one batch before it is measured")
    packed = next((name for name, value in model.state_dict().items() if not _is_plain(value)), None)
    if packed is not None:
        raise BadInput(f"{ref}: the weight {packed!r} is no plain tensor, as after quantization; {ORIGINAL}")
    try:
        with evaluating(model):
            pass
    except (AttributeError, NotImplementedError) as error:
        raise BadInput(
            f"{ref}: the mode of this {type(model).__name__} cannot be set ({reason(error)}); {ORIGINAL}"
        ) from None
    return Loaded(float32_ends(model), ModelInfo(ref=ref, digest=model_digest(model), label=label))


def _is_plain(value: object) -> bool:
    return isinstance(value, Tensor) and not value.is_quantized
