"""A row for every image of a run: what is known before any attack, and what each stage adds."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from satbench.data import Images
from satbench.evaluation.judge import Judged
from satbench.evaluation.parts import KEY
from satbench.threat import distance

DISTANCES = {"distance_linf": "Linf", "distance_l2": "L2", "distance_l1": "L1"}
OUTCOME = ["prediction", "margin", "correct_share", *DISTANCES]  # of the example that speaks for an image
PLACE = ["example_file", "example_row"]


def clean_table(images: Images, predictions: Tensor, margins: Tensor) -> pd.DataFrame:
    """What the network says of the images as they are; a misclassified one is broken at no passes."""
    prediction, label = predictions.numpy(), images.y.numpy()
    wrong = prediction != label
    return pd.DataFrame(
        {
            "sample_id": images.ids,
            "sample_hash": images.hashes,
            "label": label,
            "clean_prediction": prediction,
            "broken": wrong,
            "prediction": prediction,
            "margin": np.where(wrong, margins.numpy(), np.nan).astype(np.float32),
            "correct_share": (~wrong).astype(np.float32),
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


def outcomes_of(
    clean: pd.DataFrame, x: Tensor, x_adv: Tensor, y: Tensor, seen: Judged, passes: tuple[Tensor, Tensor, Tensor]
) -> pd.DataFrame:
    """What an attack did to the images of these clean rows: the columns of `parts.OUTCOMES` but for the place.

    `passes` are forward passes, backward passes and the forward pass of the fall, or -1, int64 (N,) on the CPU each.
    """
    forward, backward, fell_at = passes
    broken = (seen.predictions != y).cpu() & torch.tensor([not violation for violation in seen.violations])
    return pd.DataFrame(
        {
            **clean[KEY].reset_index(drop=True),
            "broken": broken.numpy(),
            "prediction": seen.predictions.cpu().numpy(),
            "margin": seen.margins.cpu().numpy(),
            "correct_share": (~broken).numpy().astype(np.float32),
            **{name: distance(norm, x, x_adv).float().cpu().numpy() for name, norm in DISTANCES.items()},
            "fell_at": torch.where(broken, torch.where(fell_at < 0, forward, fell_at), -1).numpy(),
            "forward": forward.numpy(),
            "backward": backward.numpy(),
            "bad_gradient": False,
            "violation": seen.violations,
        }
    )


def enter(table: pd.DataFrame, rows: np.ndarray, outcomes: pd.DataFrame, stage: str) -> None:
    """Add one stage's outcomes; an image that stands is spoken for by the example of the largest margin."""
    outcomes = outcomes.set_axis(rows)
    broken = outcomes["broken"].astype(bool)
    new = rows[broken]
    table.loc[new, "fell_at"] = table.loc[new, "forward"] + outcomes.loc[new, "fell_at"]
    table.loc[rows, "forward"] += outcomes["forward"]
    table.loc[rows, "backward"] += outcomes["backward"]
    before = table.loc[rows, "margin"]
    strongest = rows[broken | before.isna() | (outcomes["margin"] > before)]
    table.loc[strongest, [*OUTCOME, "violation"]] = outcomes.loc[strongest, [*OUTCOME, "violation"]]
    table.loc[new, PLACE] = outcomes.loc[new, PLACE]
    table.loc[new, "broken"] = True
    table.loc[new, "stage"] = stage
