"""Write the fixtures of tests/fixtures/tf/, which inputs.py describes.

PYTHONPATH=tests python -m tf_reference.make_fixtures FOLDER
"""

import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import tensorflow as tf

from tf_reference.graphs import EPS, function
from tf_reference.inputs import (
    ACTIVATIONS,
    BICUBIC,
    FULL_WIDTH,
    KERNELS,
    LAYER_SIDES,
    RELEASED,
    SHARDED,
    TINY,
    activation_inputs,
    batch_norm_inputs,
    numbers,
    uniform,
)
from tf_reference.session import running, save

v1 = tf.compat.v1


def layers() -> dict[str, np.ndarray]:
    """Single operations; keys as in layers.npz."""
    found = {}
    for side in LAYER_SIDES:
        shape = (1, side, side, 3)
        key = f"max_pool/{side}"
        found[key] = tf.nn.max_pool2d(uniform(key, shape) - 1, 3, 2, "SAME")
        for kernel in KERNELS:
            key = f"conv/{kernel}/{side}"
            weights = uniform(f"{key}/W", (kernel, kernel, 3, 4))
            found[key] = tf.nn.conv2d(uniform(key, shape), weights, 2, "SAME")
            key = f"depthwise/{kernel}/{side}"
            weights = uniform(f"{key}/W", (kernel, kernel, 3, 1))
            found[key] = tf.nn.depthwise_conv2d(uniform(key, shape), weights, (1, 2, 2, 1), "SAME")
    x, statistics = batch_norm_inputs()
    gamma, beta, mean, variance = (statistics[name] for name in ("gamma", "beta", "mean", "variance"))
    fused = v1.nn.fused_batch_norm(x, gamma, beta, mean, variance, epsilon=EPS, is_training=False)
    found["batch_norm/fused"] = fused[0]
    found["batch_norm/formula"] = tf.nn.batch_normalization(x, mean, variance, beta, gamma, EPS)
    for name in ACTIVATIONS:
        root = tf.constant([3.0])
        found[f"activation/{name}"] = function(name, root=lambda root=root: root)(tf.constant(activation_inputs()))
    for height, width, size in BICUBIC:
        key = f"bicubic/{height}x{width}/{size}"
        image = 255 * uniform(key, (1, height, width, 3))
        found[key] = v1.image.resize_bicubic(image, (size, size), align_corners=False, half_pixel_centers=False)[0]
    return {key: np.asarray(value) for key, value in found.items()}


def sharded(prefix: Path) -> None:
    """A sharded saver gives each device a shard."""
    with tf.Graph().as_default(), v1.Session(config=v1.ConfigProto(device_count={"CPU": 2})) as session:
        for name, (dtype, shape) in SHARDED.items():
            value = numbers(dtype, shape)
            if dtype == "bfloat16":
                value = value.astype(ml_dtypes.bfloat16)
            with tf.device("/cpu:1" if name.startswith("second/") else "/cpu:0"):
                v1.get_variable(name, initializer=value, use_resource=False)
        session.run(v1.global_variables_initializer())
        save(session, prefix, sharded=True)


def sliced(prefix: Path) -> None:
    with tf.Graph().as_default(), v1.Session() as session:
        zeros = v1.zeros_initializer()
        v1.get_variable(
            "sliced", (4, 3), initializer=zeros, partitioner=v1.fixed_size_partitioner(2), use_resource=False
        )
        session.run(v1.global_variables_initializer())
        save(session, prefix)


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "layers.npz", **layers())
    logits = {}
    for plan in (*TINY, *FULL_WIDTH):
        with running(plan) as run:
            logits.update(run.logits())
    with running(RELEASED) as run:
        logits.update(run.logits())
        run.save(folder / RELEASED.name)
    np.savez(folder / "logits.npz", **logits)
    sharded(folder / "sharded")
    sliced(folder / "sliced")
    tf.train.Checkpoint(x=tf.Variable(numbers("float32", (3,)))).write(str(folder / "object"))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
