"""Networks that are a program in a file, of `torch.export` (.pt2) or TorchScript: measured as they are.

Such a file is code that torch runs. A .pt2 with Python pickles, compiled libraries or custom objects is refused before
it is opened, but its graph is run: load files of authors you trust.
"""

import json
import logging
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Self

import torch
from torch import Tensor, nn

from satbench.core.bounded import check_plain
from satbench.core.errors import FAULTS, BadInput, reason
from satbench.models.torch_file import check_archive
from satbench.zoo.pickles import weights_only

EXPORTED = ".pt2"
SCRIPTED = (".pt", ".pth", ".ts", ".torchscript")
MOST_JSON = 64 << 20  # bytes of a list of weights or constants
_RUNS_CODE = ("/aotinductor/", "/executorch/", "opaque_obj", "custom_obj")


class Program(nn.Module):
    """A network in a file; `train` and `eval` change nothing in one of torch.export, and in frozen TorchScript."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        scripted = isinstance(network, torch.jit.ScriptModule)
        self.has_mode = scripted and all(hasattr(module, "training") for module in network.modules())
        if not self.has_mode:
            for module in network.modules():
                module.training = False

    def train(self, mode: bool = True) -> Self:
        self.training = mode
        if self.has_mode:
            self.network.train(mode)
        return self

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x)
        return logits


def is_program(path: Path) -> bool:
    """Whether a file is a .pt2 or, by what it holds, a TorchScript file; one of plain weights is neither."""
    if path.suffix == EXPORTED:
        return True
    if path.suffix not in SCRIPTED or not path.is_file():
        return False
    return any("/code/" in f"/{name}" for name in _names(path))


def load_program(path: Path, device: torch.device) -> tuple[Program, tuple[int, ...] | None]:
    """The network and the shape (channels, height, width) of its images where the file tells it.

    TorchScript is loaded to `device`: where it is frozen, its weights are constants, which `Module.to` does not move.
    Raises `BadInput` for a file that is damaged, holds what could run other code, or takes one fixed number of images.
    """
    check_plain(path)
    if not path.is_file():
        raise BadInput(f"no such file: {path}")
    check_archive(path)
    logged: list[BaseException] = []
    try:
        with _without_notes(logged):
            if path.suffix != EXPORTED:
                scripted: Any = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
                return Program(scripted), None
            _refuse_code(path)
            with weights_only():
                program = torch.export.load(path)
                shape = _image_shape(path, program)
                return Program(program.module()), shape
    except BadInput:
        raise
    except (*FAULTS, OSError, UnpicklingError) as error:
        found = reason(logged[-1] if logged else error)
        raise BadInput(f"{path} cannot be loaded as a network ({found}); save it again") from error


@contextmanager
def _without_notes(logged: list[BaseException]) -> Iterator[None]:
    """Without torch's warnings, such as that TorchScript is deprecated; exceptions that it only logs are appended."""

    def keep(record: logging.LogRecord) -> bool:
        logged.extend(error for error in (record.exc_info or ())[1:2] if isinstance(error, BaseException))
        return False

    log = logging.getLogger("torch.export")
    log.addFilter(keep)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.removeFilter(keep)


def _image_shape(path: Path, program: Any) -> tuple[int, ...] | None:
    given = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder"]
    shapes: list[tuple[Any, ...]] = [tuple(value.shape) for value in given[-1:] if isinstance(value, Tensor)]
    inputs = [spec for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    if len(inputs) != 1 or not shapes or len(shapes[0]) != 4:
        raise BadInput(f"{path} takes {len(inputs)} inputs; expected one, images (N, C, H, W)")
    batch, *image = shapes[0]
    if isinstance(batch, int):
        raise BadInput(
            f"{path} was exported for {batch} images at a time; export it with a dynamic first dimension: "
            "torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))"
        )
    return None if any(not isinstance(side, int) for side in image) else tuple(image)


def _refuse_code(path: Path) -> None:
    """Refuse an archive with members or payloads that torch would unpickle or run."""
    names = _names(path)
    models = [name for name in names if name.endswith("/models/model.json")]
    if len(models) != 1:
        raise BadInput(f"{path} is no file of torch.export of this torch, or not whole; export it again")
    for name in names:
        if any(sign in name for sign in _RUNS_CODE):
            raise BadInput(f"{path} holds {name}, which could run any code; export the plain network")
    with zipfile.ZipFile(path) as archive:
        for name in names:
            if not name.endswith("_config.json"):
                continue
            if archive.getinfo(name).file_size > MOST_JSON:
                raise BadInput(f"{path}: {name} is larger than {MOST_JSON >> 20} MiB; export the network again")
            for payload in json.loads(archive.read(name))["config"].values():
                if payload["use_pickle"] or any(sign in payload["path_name"] for sign in _RUNS_CODE):
                    raise BadInput(f"{path} holds a pickle, {payload['path_name']}; export plain tensors")


def _names(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, OSError):
        return []
