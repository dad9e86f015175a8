"""A row for every image of a run: what is known before any attack, and what each stage adds."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from satbench.data import Images
from satbench.evaluation.judge import Judged, Vote
from satbench.evaluation.parts import KEY
from satbench.numerics.threat import distance

DISTANCES = {"distance_linf": "Linf", "distance_l2": "L2", "distance_l1": "L1"}
OUTCOME = ["prediction", "margin", "correct_share", *DISTANCES]  # of the example that represents an image
PLACE = ["example_file", "example_row"]


@dataclass(frozen=True)
class Passes:
    """What an attack did to each image, on the CPU: forward and backward passes, int64 (N,); the forward pass at which
    the network first erred in ball and box, or -1; whether a gradient was NaN or infinite, bool (N,)."""

    forward: Tensor
    backward: Tensor
    fell_at: Tensor
    bad_gradient: Tensor


def clean_table(images: Images, seen: Vote) -> pd.DataFrame:
    """What the network says of the images as they are; a misclassified one is broken at no passes."""
    prediction, label = seen.predictions.numpy(), images.y.numpy()
    wrong = prediction != label
    return pd.DataFrame(
        {
            "sample_id": images.ids,
            "sample_hash": images.hashes,
            "label": label,
            "clean_prediction": prediction,
            "broken": wrong,
            "prediction": prediction,
            "margin": np.where(wrong, seen.margins.numpy(), np.nan).astype(np.float32),
            # an image that is misclassified as it is is never attacked: its share would not be one under attack
            "correct_share": np.where(wrong, 0, seen.correct_shares.numpy()).astype(np.float32),
            **{name: np.zeros(len(label), np.float32) for name in DISTANCES},
            "fell_at": np.where(wrong, 0, -1),
            "forward": 0,
            "backward": 0,
            "bad_gradient": False,
            "stage": "",
            "violation": "",
            "example_file": "",
            "example_row": -1,
        }
    )


def carry(table: pd.DataFrame, smaller: pd.DataFrame) -> None:
    """Break what a smaller eps has broken, by the same example."""
    carried = (smaller["broken"] & ~table["broken"]).to_numpy()
    same = ["broken", "fell_at", "stage", *OUTCOME, *PLACE]
    table.loc[carried, same] = smaller.loc[carried, same]


def outcomes_of(clean: pd.DataFrame, x: Tensor, x_adv: Tensor, y: Tensor, seen: Judged, passes: Passes) -> pd.DataFrame:
    """What an attack did to the images of these clean rows: the columns of `parts.OUTCOMES` but for the place.

    An example that violates the threat has the share of the image as it is.
    """
    shares = seen.correct_shares.cpu().numpy()
    broken = (seen.predictions != y).cpu() & torch.tensor([not violation for violation in seen.violations])
    return pd.DataFrame(
        {
            **clean[KEY].reset_index(drop=True),
            "broken": broken.numpy(),
            "prediction": seen.predictions.cpu().numpy(),
            "margin": seen.margins.cpu().numpy(),
            "correct_share": np.where(np.isnan(shares), clean["correct_share"], shares),
            **{name: distance(norm, x, x_adv).float().cpu().numpy() for name, norm in DISTANCES.items()},
            "fell_at": torch.where(broken, torch.where(passes.fell_at < 0, passes.forward, passes.fell_at), -1).numpy(),
            "forward": passes.forward.numpy(),
            "backward": passes.backward.numpy(),
            "bad_gradient": passes.bad_gradient.numpy(),
            "violation": seen.violations,
        }
    )


def enter(table: pd.DataFrame, rows: np.ndarray, outcomes: pd.DataFrame, stage: str) -> None:
    """Add one stage's outcomes.

    An image that stands is represented by the example of the smallest share of correct passes, of these by that of the
    largest margin.
    """
    outcomes = outcomes.set_axis(rows)
    broken = outcomes["broken"].astype(bool)
    new = rows[broken]
    table.loc[new, "fell_at"] = table.loc[new, "forward"] + outcomes.loc[new, "fell_at"]
    table.loc[rows, "forward"] += outcomes["forward"]
    table.loc[rows, "backward"] += outcomes["backward"]
    table.loc[rows, "bad_gradient"] |= outcomes["bad_gradient"].astype(bool)
    before, share = table.loc[rows, "margin"], table.loc[rows, "correct_share"]
    larger = (outcomes["correct_share"] == share) & (outcomes["margin"] > before)
    strongest = rows[broken | before.isna() | (outcomes["correct_share"] < share) | larger]
    table.loc[strongest, [*OUTCOME, "violation"]] = outcomes.loc[strongest, [*OUTCOME, "violation"]]
    table.loc[new, PLACE] = outcomes.loc[new, PLACE]
    table.loc[new, "broken"] = True
    table.loc[new, "stage"] = stage
