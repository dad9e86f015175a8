"""satbench: robustness benchmarking and evaluation around Smooth Adversarial Training.

The public names are resolved at first use, so that `import satbench` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

from satbench.core.version import __version__ as __version__

if TYPE_CHECKING:
    from satbench.evaluation import evaluate as evaluate
    from satbench.evaluation.verify import verify as verify
    from satbench.numerics.threat import ThreatModel as ThreatModel
    from satbench.reporting.paired import compare_runs as compare
    from satbench.results.store import read_run as load_run
    from satbench.specs.evaluation import EvaluationSpec as EvaluationSpec
    from satbench.training import TrainConfig as TrainConfig
    from satbench.training import train as train
    from satbench.zoo import load_model as load_model

_PUBLIC = {
    "EvaluationSpec": "satbench.specs.evaluation:EvaluationSpec",
    "ThreatModel": "satbench.numerics.threat:ThreatModel",
    "TrainConfig": "satbench.training:TrainConfig",
    "compare": "satbench.reporting.paired:compare_runs",
    "evaluate": "satbench.evaluation:evaluate",
    "load_model": "satbench.zoo:load_model",
    "load_run": "satbench.results.store:read_run",
    "train": "satbench.training:train",
    "verify": "satbench.evaluation.verify:verify",
}
__all__ = [
    "EvaluationSpec",
    "ThreatModel",
    "TrainConfig",
    "compare",
    "evaluate",
    "load_model",
    "load_run",
    "train",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'satbench' has no attribute {name!r}; public: {', '.join(__all__)}")
    module, attribute = _PUBLIC[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
