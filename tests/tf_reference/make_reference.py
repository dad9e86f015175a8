"""Write the whole reference, which inputs.py describes, from TensorFlow: fixtures, checkpoints, logits and images.

    PYTHONPATH=tests python -m tf_reference.make_reference FOLDER JPEG [JPEG ...]

FOLDER is replaced once everything is there; it takes about 1 GB. EfficientNet-L1 in float64 takes 8 GB of memory.
"""

import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from tf_reference import make_fixtures
from tf_reference.inputs import DEEP, JPEG_SIZES, MANY, REFERENCE, EfficientNetPlan, Plan, many_name
from tf_reference.session import Beside, running

v1 = tf.compat.v1


def momentum(logits: tf.Tensor) -> None:
    """What training a ResNet keeps: a slot of each weight."""
    optimizer = v1.train.MomentumOptimizer(0.1, 0.9, use_nesterov=True)
    optimizer.minimize(tf.reduce_mean(logits), v1.train.get_global_step())


def averages_and_rmsprop(logits: tf.Tensor) -> None:
    """What training an EfficientNet keeps: averages of all its variables, and two slots of each weight."""
    statistics = [one for one in v1.global_variables() if one.op.name.rpartition("/")[2].startswith("moving_")]
    weights = v1.trainable_variables()
    v1.train.RMSPropOptimizer(0.016, 0.9, 0.9, 1e-3).minimize(tf.reduce_mean(logits), v1.train.get_global_step())
    tf.train.ExponentialMovingAverage(0.9999).apply(weights + statistics)


BESIDE: dict[str, Beside] = {"Res50-silu": momentum, "efficientnet-b0": averages_and_rmsprop}


def network(plan: Plan, folder: Path) -> dict[str, np.ndarray]:
    """Write the checkpoint of `plan` and what it must hold; the logits."""
    with running(plan, BESIDE.get(plan.name, lambda logits: None)) as run:
        run.save(folder / "model")
        logits, shapes = run.logits(), {one.op.name: one.shape.as_list() for one in run.weights}
        if isinstance(plan, EfficientNetPlan):
            run.take_averages()
            logits |= {f"{key}/averaged": value for key, value in run.logits().items()}
    reader = tf.train.load_checkpoint(str(folder / "model"))
    dtypes = reader.get_variable_to_dtype_map()
    held = {name: [dtypes[name].name, shape] for name, shape in reader.get_variable_to_shape_map().items()}
    (folder / "variables.json").write_text(json.dumps({"network": shapes, "file": held}))
    return logits


def deep(plan: Plan) -> tuple[dict[str, np.ndarray], dict[str, list[int]]]:
    """The logits of `plan` in float32 and float64, and the shapes of its variables."""
    with running(plan) as run:
        logits, shapes = run.logits(), {one.op.name: one.shape.as_list() for one in run.weights}
    with running(plan, dtype=tf.float64) as run:
        return logits | {f"{key}/float64": value for key, value in run.logits().items()}, shapes


def many(prefix: Path) -> None:
    names = [many_name(number) for number in range(MANY)]
    tensors = [tf.constant(number) for number in range(MANY)]
    part = f"{prefix}.part"
    tf.raw_ops.SaveV2(prefix=part, tensor_names=names, shape_and_slices=[""] * MANY, tensors=tensors)
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[part], destination_prefix=str(prefix), delete_old_dirs=False)


def jpeg(file: Path) -> dict[str, np.ndarray]:
    """Keys as in jpeg.npz, but for the name of the file."""
    content = file.read_bytes()
    accurate = tf.image.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE")
    found = {"default": tf.image.decode_jpeg(content, channels=3), "accurate": accurate}
    found |= {f"accurate/{size}": resized(accurate, size) for size in JPEG_SIZES}
    return {key: value.numpy() for key, value in found.items()}


def resized(image: tf.Tensor, size: int) -> tf.Tensor:
    """The centre square, size / (size + 32) of the shorter side, by TensorFlow 1's bicubic; float32, not clipped."""
    height, width = image.shape[:2]
    side = int(tf.cast(size / (size + 32) * tf.cast(min(height, width), tf.float32), tf.int32))
    top, left = (height - side + 1) // 2, (width - side + 1) // 2
    return v1.image.resize_bicubic(image[None, top : top + side, left : left + side], (size, size))[0]


def write(folder: Path, photographs: list[Path]) -> None:
    started = time.monotonic()

    def done(what: str) -> None:
        sys.stdout.write(f"{time.monotonic() - started:6.1f} s  {what}\n")
        sys.stdout.flush()

    make_fixtures.write(folder / "fixtures")
    done("fixtures")
    logits = {}
    for plan in REFERENCE:
        logits.update(network(plan, folder / plan.name))
        done(plan.name)
    np.savez(folder / "logits.npz", **logits)
    logits, shapes = {}, {}
    for plan in DEEP:
        found, shapes[plan.name] = deep(plan)
        logits.update(found)
        done(plan.name)
    np.savez(folder / "deep.npz", **logits)
    (folder / "deep.json").write_text(json.dumps(shapes))
    many(folder / "many")
    pixels = {f"{file.name}/{key}": value for file in photographs for key, value in jpeg(file).items()}
    np.savez(folder / "jpeg.npz", **pixels)
    done(f"{len(photographs)} photographs; TensorFlow {tf.__version__}")


if __name__ == "__main__":
    final = Path(sys.argv[1])
    partial = final.with_name(f"{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write(partial, [Path(file) for file in sys.argv[2:]])
    shutil.rmtree(final, ignore_errors=True)
    partial.rename(final)
