"""What each stage of an ensemble removed, and at what price."""

import pandas as pd

from satbench.reporting.names import short_names, threat_name
from satbench.results.store import Run, read_timing

AS_IT_IS = "none: misclassified as it is"
CARRIED = "none: broken at a smaller eps"


def stage_table(run: Run) -> pd.DataFrame:
    """A line per ensemble, threat and stage, in the order in which the stages ran; no lines without an ensemble.

    `images` met the stage, it broke `removed` of them and `left` stand after it; passes are forward + backward, a mean
    over the images that met it. All cells are texts. Raises `BadInput` when the run's times are missing or damaged.
    """
    timing = read_timing(run)
    timing = timing[timing["stage"] != ""]
    ensembles = {one.id: one for one in run.manifest.attacks if one.id in set(timing["attack"])}
    attacks = short_names(ensembles.values())
    stages = short_names(stage for one in ensembles.values() for stage in one.stages)
    lines = []
    for ensemble in dict.fromkeys(timing["attack"]):
        chosen = run.records[run.records["attack"] == ensemble]
        for (norm, eps), records in chosen.groupby(["norm", "eps"], sort=True):
            left = len(records)
            wrong = records["clean_prediction"] != records["label"]
            carried = records["broken"] & ~wrong & (records["forward"] == 0)
            ran = timing[(timing["attack"] == ensemble) & (timing["norm"] == norm) & (timing["eps"] == eps)]
            removed = [(AS_IT_IS, int(wrong.sum()), ""), (CARRIED, int(carried.sum()), "")]
            for stage in dict.fromkeys(ran["stage"]):
                here = ran[ran["stage"] == stage]
                passes = " + ".join(f"{here[key].sum() / here['images'].sum():.1f}" for key in ("forward", "backward"))
                broken = records["broken"] & (records["stage"] == stage) & ~carried
                removed.append((stages[stage], int(broken.sum()), passes))
            for name, count, passes in removed:
                if passes or count:
                    place = {"attack": attacks[ensemble], "threat": threat_name(norm, eps), "stage": name}
                    counts = {"images": str(left), "removed": str(count), "left": str(left - count)}
                    lines.append({**place, **counts, "passes an image": passes or "-"})
                left -= count
    return pd.DataFrame(lines)
