"""satbench: robustness benchmarking and evaluation around Smooth Adversarial Training.

The public names are resolved at first use, so that `import satbench` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from satbench.evaluation import evaluate as evaluate
    from satbench.evaluation.verify import verify as verify
    from satbench.numerics.threat import ThreatModel as ThreatModel
    from satbench.specs.evaluation import EvaluationSpec as EvaluationSpec
    from satbench.training import TrainConfig as TrainConfig
    from satbench.training import train as train
    from satbench.zoo import load_model as load_model

_PUBLIC = {
    "EvaluationSpec": "satbench.specs.evaluation",
    "ThreatModel": "satbench.numerics.threat",
    "TrainConfig": "satbench.training",
    "evaluate": "satbench.evaluation",
    "load_model": "satbench.zoo",
    "train": "satbench.training",
    "verify": "satbench.evaluation.verify",
}
__all__ = ["EvaluationSpec", "ThreatModel", "TrainConfig", "evaluate", "load_model", "train", "verify"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'satbench' has no attribute {name!r}; public: {', '.join(__all__)}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
