"""`satbench trust`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from satbench.cli import options
from satbench.cli.environment import Offline, Zoo
from satbench.cli.output import check_amount, echo, echo_table, echo_verdict
from satbench.cli.progress import announce, progress_bar

if TYPE_CHECKING:
    from satbench.data import Images
    from satbench.results.schema import Trust
    from satbench.zoo import Loaded

USUAL = 256  # images
MOST = 1000  # images that the battery looks at, `trust.SAMPLE`


def command(
    model: Annotated[str, typer.Argument(help="As `satbench eval --model` takes it.")],
    norm: Annotated[str, typer.Option(help="Linf, L2 or L1.")] = "Linf",
    eps: Annotated[str | None, typer.Option(help="Radius such as 8/255. Default: the training radius.")] = None,
    dataset: Annotated[str | None, typer.Option(help=f"{options.DATASET} Default: the model's own.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val, test or all.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels that image files are resized to.")] = None,
    loader: Annotated[str | None, typer.Option(help="What decodes ImageNet. Default: the model's.")] = None,
    data_dir: options.DataDir = None,
    n: Annotated[int | None, typer.Option("--n", help=f"The first N images, at most {MOST}. Default: {USUAL}.")] = None,
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
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
    zoo: Zoo = None,
    offline: Offline = False,
) -> None:
    """Check whether robustness figures of a network can be believed; exit 1 when they cannot."""
    from satbench.core.devices import check_device
    from satbench.core.eps import NORMS, parse_eps
    from satbench.core.errors import BadInput
    from satbench.core.files import to_json
    from satbench.core.lookup import nearest
    from satbench.core.parameters import Index, Threads, check
    from satbench.specs.names import check_data_path, check_data_set, check_model

    check_amount(quiet, verbose, as_json)
    check_device(device)
    if n is not None and not 1 <= n <= MOST:
        raise BadInput(f"--n {n}: the trust battery looks at {MOST} images at most; give 1 to {MOST}")
    check("--threads", threads, Threads | None)
    check("--seed", seed, Index)
    for one in (model, source):
        if one is not None:
            check_model(one)
    if dataset is not None:
        check_data_set(dataset)
        check_data_path(dataset, data_dir)
    if norm not in NORMS:
        raise BadInput(f"unknown norm {norm!r}; {nearest(norm, NORMS)}")
    if eps is not None:
        parse_eps(eps, norm)
    announce(f"trust {model}: every check on {n or f'up to {USUAL}'} images; time left follows", quiet)

    from satbench.reporting.trust_page import check_trust_folder, write_trust

    if out is not None:
        check_trust_folder(out)

    from satbench.cli.evaluate import check_images
    from satbench.core.names import path_part
    from satbench.evaluation import data_info, images_for, sweep
    from satbench.evaluation.batch import usual_threads
    from satbench.evaluation.sources import identified
    from satbench.numerics.device import resolve_device, using_threads
    from satbench.numerics.threat import ThreatModel
    from satbench.trust import ASKS, examine
    from satbench.zoo import load

    stated = None if eps is None else ThreatModel(norm, eps)
    if dataset is None and checkpoint is None:
        check_images(model, split, data_dir)
    with progress_bar(f"fetch {model}", quiet=quiet) as report:
        loaded = identified(load(model, checkpoint, device, report))
        other = None if source is None else load(source, None, device, report)
    if loaded.note and not quiet and not as_json:
        echo(loaded.note)
    threat = stated or sweep.trained_threat(loaded.info, norm)
    label = f"{path_part(loaded.info.label)}-{loaded.info.short}"
    folder = out or Path("reports", "trust", label)
    check_trust_folder(folder)
    images = images_for(loaded, dataset, split, image_size, data_dir, loader)
    images = images.head(min(USUAL, len(images)) if n is None else n)
    threads = threads or usual_threads(loaded.model, images.shape, resolve_device(device))
    with using_threads(threads), progress_bar(f"trust {loaded.info.label}", quiet=quiet) as report:
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
    data = data_info(images, images.digest)
    files = write_trust(folder, trust, loaded.info, data, threat, seed, ASKS)
    if as_json:
        asked = {"model": loaded.info, "data": data, "threat": threat}
        said = {key: value.model_dump(mode="json") for key, value in asked.items()}
        echo(to_json({**said, **trust.model_dump(mode="json"), "files": [str(file) for file in files]}), nl=False)
    else:
        _echo(trust, f"{loaded.info.label} at {threat}", files, quiet, verbose)
    raise typer.Exit(int(trust.verdict == "fail"))


def _echo(trust: "Trust", what: str, files: tuple[Path, ...], quiet: bool, verbose: bool) -> None:
    """The outcome of every check, what those saw that did not pass, and the verdict."""
    import pandas as pd

    from satbench.reporting.brief import TONES

    said = [one for one in trust.findings if verbose or one.outcome != "pass"]
    if not quiet and not verbose:
        echo_table(pd.DataFrame([{"check": one.check, "outcome": one.outcome} for one in trust.findings]))
    for finding in () if quiet else said:
        tried = f"; try --attack {finding.next_attack}" if finding.next_attack else ""
        echo(f"{finding.outcome:<11}  {finding.check}: {finding.sentence}{tried}")
    echo_verdict(f"{what}: {trust.verdict}", TONES[trust.verdict])
    for file in () if quiet else files:
        echo(f"{file}")


def _claimed(loaded: "Loaded", images: "Images") -> tuple[float, int] | None:
    """The published clean accuracy where these are the published images, seen as they were published."""
    from satbench.reporting.claims_file import published, read_claims
    from satbench.reporting.published import CARD

    claims = read_claims()
    whole = claims.images
    if (images.name, images.split) != (whole.dataset, whole.split) or images.shape[-1] != loaded.image_size:
        return None
    for claim in published(claims, loaded.info.reference):
        stated = claims.sources[claim.source].loader
        if not claim.steps and images.loader == (loaded.loader if stated == CARD else stated):
            return claim.percent / 100, whole.n
    return None
