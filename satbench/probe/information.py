"""All measurements on one network."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from satbench.core.errors import FAULTS, BadInput, reason
from satbench.core.progress import Progress, silent
from satbench.data import Images
from satbench.models.buffers import buffers_kept
from satbench.models.features import features_of
from satbench.numerics.modes import evaluating
from satbench.numerics.seeding import PerSample
from satbench.probe.fisher import input_fisher, weight_fisher
from satbench.probe.inversion import Inversion, invert
from satbench.probe.jacobian import jacobian
from satbench.probe.transfer import linear_transfer
from satbench.results.probed import Probed
from satbench.results.schema import ModelInfo

PICTURES = 8  # of the inverted images are shown
TRANSFERRED = ["target", "sample_id", "correct"]
Targets = Mapping[str, tuple[Images, Images]]  # training and test images of other data sets


def check_network(model: nn.Module, images: Images) -> None:
    """Raise `BadInput` as `check_represents` does, and for images with labels that the network does not have."""
    check_represents(model, images)
    with _measured(model), torch.no_grad():
        outputs = model(next(iter(images.head(1).batches(1)))[1].to(_device(model))).shape[1]
    if images.num_classes > outputs:
        raise BadInput(
            f"the network has {outputs} outputs, but labels of the images go up to {images.num_classes - 1}; give "
            "images of its own classes"
        )


def check_represents(model: nn.Module, images: Images) -> None:
    """Raise `BadInput` for a network without a representation of such images; it sees two of them.

    The representation has to be finite and the same at every pass.
    """
    _, x, _ = next(iter(images.head(min(2, len(images))).batches(2)))
    x = x.to(_device(model))
    with _measured(model), torch.no_grad():
        try:
            z, again = features_of(model, x), features_of(model, x)
        except BadInput:
            raise
        except FAULTS as error:
            raise BadInput(f"the network fails on images of shape {tuple(x.shape)}: {reason(error)}") from error
    if not z.isfinite().all():
        raise BadInput("the network's representation is NaN or infinite; check its weights")
    if not torch.equal(z, again):
        raise BadInput("the network draws random numbers in eval mode; give one that answers the same twice")


def probe(
    model: nn.Module,
    info: ModelInfo,
    images: Images,
    targets: Targets,
    seed: int = 0,
    inverted: int = PICTURES,
    batch_size: int = 64,
    progress: Progress = silent,
) -> Probed:
    """Measure Fisher information, Jacobian, transfer and inversion of a network in eval mode.

    `targets` are other data sets, as (training, test) images; the first `inverted` images are inverted, 0 for none.
    Random numbers come from `seed` and the sample ids, so that they depend neither on the other images nor on the batch
    size. Modes, buffers, gradients and generators are as before afterwards. Raises `BadInput` as `check_network` does.
    """
    check_network(model, images)
    device, total = _device(model), len(images) + min(inverted, len(images))
    rows: list[pd.DataFrame] = []
    layers: list[pd.DataFrame] = []
    width = 0
    with _measured(model):
        for ids, x, y in images.batches(batch_size):
            progress(sum(map(len, rows)), total, "Fisher information and Jacobian")
            of_images, of_layers, width = _batch(model, ids, x.to(device), y.to(device), seed)
            rows.append(of_images)
            layers.append(of_layers)
        found: list[Inversion] = []
        for ids, x, _ in images.head(min(inverted, len(images))).batches(batch_size) if inverted else ():
            progress(len(images) + sum(len(one.x) for one in found), total, "inversion")
            found.append(invert(model, x.to(device), PerSample.of(seed, ids, "probe", "inversion")))
        transfer = []
        for done, (target, (train, test)) in enumerate(targets.items()):
            progress(done, len(targets), f"transfer to {target}")
            right = linear_transfer(lambda x: features_of(model, x.to(device)), train, test, batch_size)
            transfer.append(pd.DataFrame(dict(zip(TRANSFERRED, (target, test.ids, right.numpy()), strict=True))))
    columns = {name: [float(value) for one in found for value in getattr(one, name)] for name in ("residual", "error")}
    table = pd.concat(rows, ignore_index=True)
    return Probed(
        info,
        table.assign(**{name: pd.Series(values, dtype=np.float64) for name, values in columns.items()}),
        pd.concat(layers, ignore_index=True),
        pd.concat(transfer, ignore_index=True) if transfer else pd.DataFrame(columns=TRANSFERRED),
        _pictures(torch.cat([torch.empty(0, *images.shape), *(one.x.cpu() for one in found)])[:PICTURES]),
        width,
    )


def originals(images: Images) -> np.ndarray:
    """The first images, which `Probed.reconstructions` show again, uint8 (k, H, W, C)."""
    _, x, _ = next(iter(images.head(min(PICTURES, len(images))).batches(PICTURES)))
    return _pictures(x)


def _pictures(x: Tensor) -> np.ndarray:
    """Images (N, C, H, W) in [0, 1] as uint8 (N, H, W, C), rounded to the nearest level."""
    return x.mul(255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def _batch(
    model: nn.Module, ids: tuple[str, ...], x: Tensor, y: Tensor, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Rows of the images, their weight Fisher information by layer, and the width of the representation."""
    with torch.no_grad():
        logits, width = model(x), features_of(model, x).shape[1]
    layers = weight_fisher(model, x, PerSample.of(seed, ids, "probe", "label"))
    slopes = jacobian(model, x, PerSample.of(seed, ids, "probe", "jacobian"))
    columns = {
        "label": y,
        "prediction": logits.argmax(1),
        "confidence": logits.softmax(1).amax(1),
        "loss": functional.cross_entropy(logits, y, reduction="none"),
        "input_fisher": input_fisher(model, x, PerSample.of(seed, ids, "probe", "input")),
        "weight_fisher": torch.stack(tuple(layers.values())).sum(0),
        "jacobian": slopes.squared,
        "jacobian_error": slopes.error,
        "relative_jacobian": slopes.relative,
    }
    table = pd.DataFrame({"sample_id": ids} | {name: column.cpu().numpy() for name, column in columns.items()})
    return table, pd.DataFrame({layer: found.numpy() for layer, found in layers.items()}), width


@contextmanager
def _measured(model: nn.Module) -> Iterator[None]:
    """Eval mode; afterwards modes, buffers and torch's global generators are as they were."""
    device = _device(model)
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        buffers_kept(model),
        evaluating(model),
    ):
        yield


def _device(model: nn.Module) -> torch.device:
    return next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
