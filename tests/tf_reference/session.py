"""One network in one TensorFlow session: its variables set, its logits taken, its checkpoint written."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_reference.graphs import build
from tf_reference.inputs import EXTRAS, Plan, images, network_input, variable

v1 = tf.compat.v1
tf.get_logger().setLevel("ERROR")  # every function of TensorFlow 1 warns that it is old

Beside = Callable[[tf.Tensor], None]


@dataclass(frozen=True)
class Run:
    """A network whose every variable holds its `variable`; `weights` are its own, without what stands beside them."""

    plan: Plan
    session: v1.Session
    x: tf.Tensor
    output: tf.Tensor
    weights: list[tf.Variable]

    def logits(self) -> dict[str, np.ndarray]:
        """By "PLAN/SIZE", (N, classes) in the network's dtype."""
        dtype = self.x.dtype.as_numpy_dtype
        inputs = {size: network_input(self.plan, images(size), dtype) for size in self.plan.sizes}
        return {
            f"{self.plan.name}/{size}": self.session.run(self.output, {self.x: one}) for size, one in inputs.items()
        }

    def save(self, prefix: Path) -> None:
        """Every variable, as a training job's `Saver` writes it; no graph beside it."""
        save(self.session, prefix)

    def take_averages(self) -> None:
        """Put the moving average of each weight in its place."""
        _assign(self.session, {one: _value(one, "/ExponentialMovingAverage") for one in self.weights})


@contextmanager
def running(plan: Plan, beside: Beside = lambda logits: None, dtype: tf.DType = tf.float32) -> Iterator[Run]:
    """A run of `plan`, with the scalars of `EXTRAS` and what `beside` adds, given the logits, to the graph."""
    with tf.Graph().as_default(), v1.Session() as session:
        x, logits = build(plan, dtype)
        weights = v1.global_variables()
        v1.train.create_global_step()
        v1.get_variable("learning_rate", (), tf.float32, trainable=False, use_resource=False)
        beside(logits)
        gain = getattr(plan, "gain", 1.0)
        _assign(session, {one: _value(one, gain=gain) for one in v1.global_variables()})
        yield Run(plan, session, x, logits, weights)


def save(session: v1.Session, prefix: Path, sharded: bool = False) -> None:
    """The variables of the graph that is open."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    v1.train.Saver(sharded=sharded).save(session, str(prefix), write_meta_graph=False, write_state=False)


def _value(one: tf.Variable, suffix: str = "", gain: float = 1.0) -> np.ndarray | np.generic:
    name = one.op.name + suffix
    return EXTRAS[name] if name in EXTRAS else variable(name, tuple(one.shape), gain)


def _assign(session: v1.Session, values: dict[tf.Variable, np.ndarray | np.generic]) -> None:
    """In one run, because each run walks the whole graph."""
    fed = {one.initializer.inputs[1]: value for one, value in values.items()}
    session.run([one.initializer for one in values], fed)
