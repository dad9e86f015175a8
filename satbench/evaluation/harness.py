"""Runs attacks on a model and writes down, sample by sample, what it saw for itself."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, nn

from satbench.attacks import Attack
from satbench.attacks.base import crafting
from satbench.data import Images
from satbench.errors import BadInput
from satbench.progress import Progress
from satbench.results.schema import RECORDS
from satbench.seeding import PerSample, derive
from satbench.threat import ThreatModel, distance

# what foreign code raises when a model and its images do not fit
FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Judged:
    """What the judge saw on returned examples: predictions int64 (N,) and "" or a violation for each."""

    predictions: Tensor
    violations: list[str]


def measure(
    model: nn.Module,
    images: Images,
    attacks: Sequence[Attack],
    threats: Sequence[ThreatModel],
    seed: int,
    batch_size: int,
    device: torch.device,
    progress: Progress,
) -> pd.DataFrame:
    """One record per attack, threat and sample, in that order, with the columns of `results.schema.RECORDS`.

    The model is judged in eval mode and float32. A sample that is misclassified as it is counts as broken and is not
    attacked. Images in files are decoded once for the clean pass and once more for each attack and threat. Raises
    `BadInput` when the logits are not (N, K), not finite, or too few for the labels.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(derive(seed, "model"))  # a model that draws numbers draws the same ones in an equal run
        with crafting(model):
            clean = [predict(model, x.to(device), y.to(device)) for _, x, y in images.batches(batch_size)]
        hashes = images.hashes
        rows: list[pd.DataFrame] = []
        total, done = len(attacks) * len(threats) * len(images), 0
        for attack in attacks:
            for threat in threats:
                what = f"{attack} {threat}"
                for (ids, x, y), clean_prediction in zip(images.batches(batch_size), clean, strict=True):
                    x, y = x.to(device), y.to(device)
                    x_adv, judged = _attack_batch(model, attack, threat, x, y, clean_prediction, ids, seed)
                    seen = hashes[done % len(images) :][: len(ids)]
                    named = {"sample_id": ids, "sample_hash": seen, "attack": repr(attack)}
                    rows.append(_records(threat, x, y, clean_prediction, x_adv, judged).assign(**named))
                    done += len(ids)
                    progress(done, total, what)
        return pd.concat(rows, ignore_index=True)[RECORDS.names]


def _records(
    threat: ThreatModel, x: Tensor, y: Tensor, clean_prediction: Tensor, x_adv: Tensor, judged: Judged
) -> pd.DataFrame:
    """What is known of each sample of a batch but its name and its attacker's."""
    wrong = (judged.predictions != y).tolist()
    return pd.DataFrame(
        {
            "label": y.tolist(),
            "clean_prediction": clean_prediction.tolist(),
            "norm": threat.norm,
            "eps": threat.eps,
            "broken": [one and not violation for one, violation in zip(wrong, judged.violations, strict=True)],
            "prediction": judged.predictions.tolist(),
            "distance_linf": distance("Linf", x, x_adv).tolist(),
            "distance_l2": distance("L2", x, x_adv).tolist(),
            "distance_l1": distance("L1", x, x_adv).tolist(),
            "violation": judged.violations,
        }
    )


def predict(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Predicted classes int64 (N,) in float32; output that cannot be judged against labels `y` raises `BadInput`."""
    with torch.no_grad():
        given = x.detach().float().clone()
        try:
            logits = model(given)
        except FAULTS as error:
            raise BadInput(f"the model failed on images of shape {tuple(x.shape)}: {_reason(error)}") from error
    if not torch.equal(given, x.detach().float()):
        raise BadInput("the model changes its input in place; let it work on a copy")
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise BadInput(f"the model returned {shape} for {len(x)} images; expected logits ({len(x)}, classes)")
    if logits.shape[1] < 2:
        raise BadInput("the model has one class, so nothing can be misclassified; expected logits of two or more")
    if int(y.max()) >= logits.shape[1]:
        raise BadInput(f"labels go up to {int(y.max())} but the model has {logits.shape[1]} classes (0 to K-1)")
    bad = int((~logits.isfinite()).any(1).sum())
    if bad:
        raise BadInput(
            f"the model returned NaN or infinite logits for {bad} of {len(x)} images in a batch; nothing is saved"
        )
    return logits.argmax(1)


def judge(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, threat: ThreatModel) -> Judged:
    """Look again at what an attack returned: shape, finiteness, box, ball, and the model's answer, in float32.

    A row that violates the threat is never given to the model; its prediction is -1.
    """
    if x_adv.shape != x.shape:
        raise BadInput(f"an attack returned shape {tuple(x_adv.shape)} for images of shape {tuple(x.shape)}")
    x_adv = x_adv.detach().float()
    valid = threat.contains(x, x_adv)
    predictions = torch.full_like(y, -1)
    if valid.any():
        predictions[valid] = predict(model, x_adv[valid], y[valid])
    return Judged(predictions, [_violation(x[i : i + 1], x_adv[i : i + 1], threat) for i in range(len(x))])


def _violation(x: Tensor, x_adv: Tensor, threat: ThreatModel) -> str:
    """What is wrong with one returned example (1, C, H, W), or ""."""
    if not x_adv.isfinite().all():
        return "not finite"
    if threat.contains(x, x_adv).all():
        return ""
    outside = bool((x_adv < 0).any() or (x_adv > 1).any())
    return "outside the box" if outside else "outside the ball"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0]}"


def _attack_batch(
    model: nn.Module,
    attack: Attack,
    threat: ThreatModel,
    x: Tensor,
    y: Tensor,
    clean_prediction: Tensor,
    ids: tuple[str, ...],
    seed: int,
) -> tuple[Tensor, Judged]:
    """Attack the rows that are right as they are, judge them, and leave the others at the clean image."""
    correct = (clean_prediction == y).nonzero()[:, 0]
    predictions, violations, x_adv = clean_prediction.clone(), [""] * len(x), x.clone()
    if len(correct):
        streams = PerSample.of(seed, [ids[i] for i in correct.tolist()], "attack")
        try:
            returned = attack(model, x[correct], y[correct], threat, streams)
        except BadInput:
            raise
        except FAULTS as error:
            raise BadInput(f"{attack} failed on this model: {_reason(error)}") from error
        with crafting(model):
            seen = judge(model, x[correct], returned, y[correct], threat)
        predictions[correct] = seen.predictions
        for row, violation in zip(correct.tolist(), seen.violations, strict=True):
            violations[row] = violation
        x_adv[correct] = returned.detach().to(x.dtype)
    return x_adv, Judged(predictions, violations)
