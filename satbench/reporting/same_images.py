"""Every attack on the images and networks that met the strongest one, where others were measured on more."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from satbench.reporting.comparison import DESCRIBED, Comparison
from satbench.reporting.differences import difference_table
from satbench.reporting.joined import Measured
from satbench.reporting.verdict import comparisons
from satbench.specs.attack import AttackInfo

SAME_IMAGES_NOTE = (
    "The strongest attack met fewer networks or fewer images than others did. Here every attack counts on these "
    "networks and images alone, so that the lines differ in the attack and in nothing else. Nothing is tested here."
)


def on_same_images(
    networks: Sequence[Measured],
    reference: str,
    found: Sequence[Comparison],
    threat: tuple[str, float],
    attacks: Mapping[str, AttackInfo],
) -> pd.DataFrame:
    """A line a comparison, as `difference_table`: clean accuracy and each attack, on what met the strongest attack.

    found: the comparisons of `networks`, each of one attack. attacks: what is known of each by its id. Empty where
    all comparisons at `threat` are of the same networks and images already.
    """
    here = [one for one in found if one.threat in (None, threat)]
    strongest = max((one.attacks[0] for one in here if one.attacks), key=lambda id: (attacks[id].strength, id))
    kept = [_limited(one, threat, strongest) for one in networks if strongest in one.met(*threat)]
    again, _ = comparisons(kept, reference, every=True)
    known = {_of_what(one) for one in here}
    if len(again) < 2 or all(_of_what(one) in known for one in again):
        return pd.DataFrame()
    table = difference_table([replace(one, role=DESCRIBED) for one in again])
    return table.drop(columns=["bootstrap", "p", "verdict", "planned as"])


def _limited(one: Measured, threat: tuple[str, float], attack: str) -> Measured:
    """What was measured at this threat on the images that met the attack."""
    (norm, eps), records = threat, one.records
    at, met = (records["norm"] == norm) & (records["eps"] == eps), one.met(norm, eps)[attack]
    return replace(one, records=records[at & records["sample_id"].isin(met)])


def _of_what(one: Comparison) -> tuple[object, ...]:
    return one.of, one.against, one.attacks, one.seeds, one.n
