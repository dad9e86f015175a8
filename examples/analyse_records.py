"""Ask questions of a run's records with pandas: accuracy over eps, weak classes, and the step that breaks an image.

python examples/analyse_records.py [FOLDER]
"""

import sys
from pathlib import Path

import satbench

if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/analyse-records")
    satbench.evaluate("digits-silu", out=out, attack=["fgsm", "pgd:steps=20"], eps="0.05,0.1,0.2", n=200)
    run = satbench.load_run(out)

    print("Accuracy over eps, worst case over the attacks:")
    print(run.curve())

    print("The three classes with the lowest robust accuracy at eps 0.1:")
    print(run.by_class(eps=0.1).nsmallest(3, "accuracy"))

    print("Images that PGD breaks and FGSM does not, by eps:")
    records = run.records
    names = {one.id: one.label for one in run.manifest.attacks}
    broken = records.assign(attack=records["attack"].map(names)).pivot(
        index=["sample_id", "eps"], columns="attack", values="broken"
    )
    print((broken["PGD-20"] & ~broken["FGSM"]).groupby("eps").sum())

    print("Forward passes until an image was first misclassified, of those that an attack broke:")
    fell = records[records["broken"] & (records["fell_at"] > 0)]
    print(fell.groupby(["attack", "eps"])["fell_at"].median().rename(index=names, level="attack"))
