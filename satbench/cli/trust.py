"""`satbench trust`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from satbench.cli import options
from satbench.cli.environment import Offline, Zoo
from satbench.cli.output import echo

if TYPE_CHECKING:
    from satbench.data import Images
    from satbench.zoo import Loaded

USUAL = 256  # images


def command(
    model: Annotated[str, typer.Argument(help="As `satbench eval --model` takes it.")],
    norm: Annotated[str, typer.Option(help="Linf, L2 or L1.")] = "Linf",
    eps: Annotated[str | None, typer.Option(help="Radius such as 8/255. Default: the training radius.")] = None,
    dataset: Annotated[str | None, typer.Option(help="As `satbench eval` takes it. Default: the model's own.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val, test or all.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels that image files are resized to.")] = None,
    loader: Annotated[str | None, typer.Option(help="What decodes ImageNet. Default: the model's.")] = None,
    data_dir: options.DataDir = None,
    n: Annotated[int | None, typer.Option("--n", help=f"The first N images, at most 1000. Default: {USUAL}.")] = None,
    seed: Annotated[int, typer.Option(help="Decides every random number.")] = 0,
    device: options.Device = "auto",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Other weights for it, as `satbench eval` takes them.")
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", metavar="MODEL", help="Also try examples made on this other network.")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads on the CPU. Default: one for a small network, else all.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the page; default reports/trust/<model>-<digest>.")
    ] = None,
    zoo: Zoo = None,
    offline: Offline = False,
) -> None:
    """Check whether robustness figures of a network can be believed; exit 1 when they cannot."""
    from satbench.cli.evaluate import check_images
    from satbench.cli.progress import progress_bar
    from satbench.core.errors import BadInput
    from satbench.core.names import path_part
    from satbench.core.parameters import Index, Threads, check
    from satbench.evaluation import data_info, images_for, sweep
    from satbench.evaluation.batch import usual_threads
    from satbench.evaluation.sources import identified
    from satbench.numerics.device import resolve_device, using_threads
    from satbench.numerics.threat import ThreatModel
    from satbench.reporting.trust_page import check_trust_folder, write_trust
    from satbench.trust import ASKS, SAMPLE, examine
    from satbench.zoo import load

    most = SAMPLE["full"]
    if n is not None and n > most:
        raise BadInput(f"--n {n}: the trust battery looks at {most} images at most; give 1 to {most}")
    check("--threads", threads, Threads | None)
    check("--seed", seed, Index)
    if out is not None:
        check_trust_folder(out)
    stated = None if eps is None else ThreatModel(norm, eps)
    if dataset is None and checkpoint is None:
        check_images(model, split, data_dir)
    with progress_bar(f"fetch {model}", "bytes") as report:
        loaded = identified(load(model, checkpoint, device, report))
        other = None if source is None else load(source, None, device, report)
    if loaded.note:
        echo(loaded.note)
    threat = stated or sweep.trained_threat(loaded.info, norm)
    label = f"{path_part(loaded.info.label)}-{loaded.info.short}"
    folder = out or Path("reports", "trust", label)
    check_trust_folder(folder)
    images = images_for(loaded, dataset, split, image_size, data_dir, loader)
    images = images.head(min(USUAL, len(images)) if n is None else n)
    threads = threads or usual_threads(loaded.model, images.shape, resolve_device(device))
    with using_threads(threads), progress_bar(f"trust {loaded.info.label}", "checks") as report:
        trust = examine(
            loaded.model,
            images,
            threat,
            seed=seed,
            depth="full",
            expected_clean=_claimed(loaded, images),
            source=None if other is None else other.model,
            progress=report,
        )
    for finding in trust.findings:
        tried = f"; try --attack {finding.next_attack}" if finding.next_attack else ""
        echo(f"{finding.outcome:<11}  {finding.check}: {finding.sentence}{tried}")
    echo(f"{loaded.info.label} at {threat}: {trust.verdict}")
    data = data_info(images, images.digest)
    for path in write_trust(folder, trust, loaded.info, data, threat, seed, ASKS):
        echo(f"{path}")
    raise typer.Exit(int(trust.verdict == "fail"))


def _claimed(loaded: "Loaded", images: "Images") -> tuple[float, int] | None:
    """The published clean accuracy where these are the published images, seen as they were published."""
    from satbench.reporting.claims_file import read_claims
    from satbench.reporting.published import CARD, published

    claims = read_claims()
    whole = claims.images
    if (images.name, images.split) != (whole.dataset, whole.split) or images.shape[-1] != loaded.image_size:
        return None
    for claim in published(claims, loaded.info.ref):
        stated = claims.sources[claim.source].loader
        if not claim.steps and images.loader == (loaded.loader if stated == CARD else stated):
            return claim.percent / 100, whole.n
    return None
