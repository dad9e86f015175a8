"""The options that several commands share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from satbench.core.tables import ATTACKS, DATA_SETS

NETWORK = (
    "A name from `satbench models`, timm:NAME, torchvision:NAME, robustbench:DATASET/THREAT/NAME, hf:OWNER/NAME, "
    "package.module:callable, a run folder, or a .safetensors, .pt2 or TorchScript file."
)
ATTACK = (
    f"{', '.join(ATTACKS)}, foolbox:NAME, package.module:callable; with parameters: pgd:loss=margin,steps=20. May be "
    "repeated."
)
_SETS = {path: ", ".join(name for name, one in DATA_SETS.items() if one.path == path) for path in ("", "[:PATH]")}
_WITH_PATH = ", ".join(f"{name}:PATH" for name, one in DATA_SETS.items() if one.path == ":PATH")
DATASET = f"{_SETS['']}; {_SETS['[:PATH]']}, also with :PATH; {_WITH_PATH}; or package.module:callable."

Norm = Annotated[str | None, typer.Option(help="Linf, L2, L1; comma list. Default: Linf.")]
Eps = Annotated[str | None, typer.Option(help="Radius such as 8/255; comma list. Default: the training radius.")]
Threats = Annotated[
    list[str] | None,
    typer.Option(metavar="NORM:EPS", help="Instead of --norm and --eps: Linf:8/255. May be repeated."),
]
Steps = Annotated[str | None, typer.Option(help="Steps of the attacks that have them; comma list.")]
Restarts = Annotated[str | None, typer.Option(help="Restarts likewise; comma list.")]
Dataset = Annotated[str | None, typer.Option(help=DATASET)]
Split = Annotated[str | None, typer.Option(help="train, val, test or all.")]
ImageSize = Annotated[int | None, typer.Option(help="Side in pixels that image files are resized to.")]
Loader = Annotated[
    str | None, typer.Option(help="opencv-cubic, tf1-bicubic or torchvision, for ImageNet. Default: the model's.")
]
DataDir = Annotated[Path | None, typer.Option(help="Where relative data paths and ImageNet lie; or SATBENCH_DATA.")]
Count = Annotated[int | None, typer.Option("--n", help="Only the first N images of the split.")]
BatchSize = Annotated[
    int | None, typer.Option(help="Images at a time. Default: chosen from the network's size, at most 256.")
]
Seed = Annotated[int, typer.Option(help="Decides every random number of the run.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda; one of several: cuda:1.")]
Checkpoint = Annotated[
    Path | None,
    typer.Option(help="Other weights for it: a weights file or, for registry names, also a TensorFlow prefix."),
]
Source = Annotated[
    str | None, typer.Option("--from", metavar="MODEL", help="Search on this network instead: a transfer attack.")
]
Search = Annotated[
    str,
    typer.Option(
        help="folded (a faster copy that agrees), plain, bf16 (faster, weaker), or surrogate (ReLU's derivative "
        "smoothed); judged as it is, in float32."
    ),
]
Draws = Annotated[
    int | None,
    typer.Option(help="Passes of which the majority decides. Default: 10 for a random network, else 1."),
]
Trust = Annotated[bool, typer.Option(help="Check the network with a tenth of the run's passes.")]
Threads = Annotated[
    int | None,
    typer.Option(help="Threads on the CPU. Default: one for a small network, else all; the last bits depend on it."),
]

Quiet = Annotated[bool, typer.Option("--quiet", help="Print the verdict alone, and no progress.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Print every column and how to read them.")]
Json = Annotated[bool, typer.Option("--json", help="Print an object for programs instead.")]


def spec_fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are fields of an `EvaluationSpec`, but for the model."""
    from satbench.specs.evaluation import EvaluationSpec

    return {name: options[name] for name in EvaluationSpec.model_fields if name in options and name != "model"}
