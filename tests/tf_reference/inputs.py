"""Networks, weights and images, by NumPy alone: TensorFlow made the fixtures from them, the tests make them anew.

No weight is stored. Every number is `uniform(NAME, SHAPE)`: the 64-bit outputs of PCG64, seeded with the CRC-32 of the
name, of which the upper 24 bits become a fraction in [0, 1) in C order. `variable` scales it by what the name means.

Files in tests/fixtures/tf/, written by make_fixtures.py:

logits.npz
    "PLAN/SIZE", float32 (2, classes), for each plan of TINY and FULL_WIDTH and each of its sizes: the logits of
    `images(SIZE)` by the network whose variable NAME of shape SHAPE is `variable(NAME, SHAPE)`. An image is uint8 RGB
    (N, H, W, 3). Networks take x * 2/255 - 1: a ResNet with the channels reversed to BGR, an EfficientNet in RGB.
    `plan.architecture` is the name in satbench where the network is one of satbench's own.
layers.npz, NHWC, inputs from `uniform(KEY, SHAPE)` with the file's own KEY, weights from `uniform(KEY + "/W", SHAPE)`:
    "max_pool/SIDE"         3x3 stride 2 SAME of `uniform - 1`, (1, SIDE, SIDE, 3): no input is positive
    "conv/K/SIDE"           KxK stride 2 SAME of (1, SIDE, SIDE, 3) with HWIO weights (K, K, 3, 4)
    "depthwise/K/SIDE"      the same per channel, weights (K, K, 3, 1)
    "batch_norm/fused"      `batch_norm_inputs()`, eps 1e-5, by TensorFlow's fused operation
    "batch_norm/formula"    the same by its operation that is not fused
    "activation/NAME"       the function at `activation_inputs()`, SmoothReLU with r = 3
    "bicubic/HxW/SIZE"      legacy bicubic of `255 * uniform`, (H, W, 3) float32, to (SIZE, SIZE, 3); not clipped
Checkpoints in TensorFlow's V2 format, each PREFIX.index with its PREFIX.data-*:
    resnet50                the plan RELEASED with `global_step` (int64) and `learning_rate` (float32) as EXTRAS; its
                            logits are in logits.npz too. Channel order BGR, variables as above
    sharded                 two shards, the contents of `SHARDED`: NAME -> `numbers(dtype, shape)`; what begins with
                            "second/" lies in the second one
    sliced                  the variable "sliced" of shape (4, 3) in two slices, which no released checkpoint has
    object                  "x/.ATTRIBUTES/VARIABLE_VALUE", float32 (3,) = `numbers`, beside a string

Files in build/tf-reference/, written by make_reference.py and not committed, with JPEG the names of the photographs:

fixtures/                   the files above once more
PLAN/model.*                the checkpoint of each plan of REFERENCE, EXTRAS and what optimizers keep included
PLAN/variables.json         {"network": {NAME: SHAPE}, "file": {NAME: [DTYPE, SHAPE]}}
many.*                      MANY int32 scalars: `many_name(NUMBER)` holds NUMBER
logits.npz                  "PLAN/SIZE", float32 (2, 1000), and "PLAN/SIZE/averaged" for an EfficientNet
deep.npz                    for each plan of DEEP: "PLAN/SIZE", float32, and "PLAN/SIZE/float64", of the same graph in
                            float64
deep.json                   {PLAN: {NAME: SHAPE}}, the variables of each
jpeg.npz                    "JPEG/default" and "JPEG/accurate", uint8 (H, W, 3): decoded by TensorFlow's default inverse
                            DCT, which is the fast one, and by the accurate one that others use; "JPEG/accurate/SIZE",
                            float32 (SIZE, SIZE, 3): then cropped and resized as for an EfficientNet, not clipped
"""

import zlib
from dataclasses import dataclass
from math import prod

import numpy as np

BATCH = 2
ACTIVATIONS = ("relu", "silu", "elu", "gelu", "smoothrelu", "softplus", "mish")

Shape = tuple[int, ...]


@dataclass(frozen=True)
class ResNetPlan:
    """A bottleneck ResNet with `width` channels after the stem, `blocks` in its groups, 3x3 convolutions in `groups`.

    A 3x3 convolution of the first group has `width * group_width * groups / 64` channels. `sizes` are those of images.
    """

    name: str
    activation: str
    sizes: Shape
    classes: int = 10
    blocks: Shape = (3, 4, 6, 3)
    width: int = 64
    groups: int = 1
    group_width: int = 64
    architecture: str | None = None


@dataclass(frozen=True)
class EfficientNetPlan:
    """An EfficientNet by its coefficients; the names of its variables begin with `scope`.

    gain: multiplies all kernels. With 1 the activations of the deeper ones grow to 1e8, their gates saturate, and
    rounding errors grow to the size of the logits, in TensorFlow as in PyTorch.
    """

    name: str
    sizes: Shape
    classes: int = 10
    width: float = 1.0
    depth: float = 1.0
    scope: str = "efficientnet-b0"
    architecture: str | None = None
    gain: float = 1.0


Plan = ResNetPlan | EfficientNetPlan

# Sides of an even size stay even for as long as they can, those of an odd size stay odd (a max-pool sees 32 and 33).
TINY: tuple[Plan, ...] = (
    *(ResNetPlan(f"tiny-{name}", name, (64, 65), blocks=(2, 1, 1, 1), width=8) for name in ACTIVATIONS),
    ResNetPlan("tiny-grouped", "silu", (64, 65), blocks=(2, 1, 1, 1), width=8, groups=4, group_width=32),
    EfficientNetPlan("tiny-efficientnet", (64, 65, 75), width=0.25, depth=1.1, scope="efficientnet-tiny"),
)
RELEASED = ResNetPlan("resnet50", "smoothrelu", (64, 65), width=1, architecture="resnet50")
FULL_WIDTH: tuple[Plan, ...] = (
    ResNetPlan("resnet50-silu", "silu", (64, 65), architecture="resnet50"),
    ResNetPlan("resnext50-gelu", "gelu", (64, 65), groups=32, group_width=4, architecture="resnext50-32x4d"),
    EfficientNetPlan("efficientnet-b0", (64, 75), architecture="efficientnet-b0"),
)
REFERENCE: tuple[Plan, ...] = (
    *(
        ResNetPlan(f"Res50-{name}", name, (224,) if name == "silu" else (96,), classes=1000, architecture="resnet50")
        for name in ACTIVATIONS
    ),
    ResNetPlan("ResX50-silu-32x4d", "silu", (96,), 1000, groups=32, group_width=4, architecture="resnext50-32x4d"),
    EfficientNetPlan("efficientnet-b0", (224,), 1000, architecture="efficientnet-b0"),
)


def _efficientnet(letter: str, width: float, depth: float, *sizes: int) -> EfficientNetPlan:
    name = f"efficientnet-{letter}"
    return EfficientNetPlan(name, sizes, 1000, width, depth, scope=name, architecture=name, gain=0.7)


# the other released architectures, whose weights are made anew on both sides and not stored
DEEP: tuple[Plan, ...] = (
    ResNetPlan("Res101-silu", "silu", (96,), 1000, (3, 4, 23, 3), architecture="resnet101"),
    ResNetPlan("Res152-silu", "silu", (96,), 1000, (3, 8, 36, 3), architecture="resnet152"),
    ResNetPlan("ResX50-silu-32x8d", "silu", (96,), 1000, groups=32, group_width=8, architecture="resnext50-32x8d"),
    ResNetPlan("ResX152-silu-32x8d", "silu", (96,), 1000, (3, 8, 36, 3), 64, 32, 8, architecture="resnext152-32x8d"),
    _efficientnet("b1", 1.0, 1.1, 96, 240),
    _efficientnet("b2", 1.1, 1.2, 96),
    _efficientnet("b3", 1.2, 1.4, 96),
    _efficientnet("b4", 1.4, 1.8, 96),
    _efficientnet("b5", 1.6, 2.2, 96),
    _efficientnet("b6", 1.8, 2.6, 96),
    _efficientnet("b7", 2.0, 3.1, 96),
    _efficientnet("l1", 3.9, 3.7, 64),
)
JPEG_SIZES = (224, 300)  # 448 to 224 only leaves out pixels, 462 to 300 interpolates
EXTRAS = {"global_step": np.int64(112_590), "learning_rate": np.float32(1e-4)}
SHARDED: dict[str, tuple[str, Shape]] = {
    "global_step": ("int64", ()),
    "first/double": ("float64", (2, 3)),
    "first/empty": ("float32", (0, 3)),
    "first/half": ("float16", (5,)),
    **{f"first/many/w{index:02d}": ("float32", (index + 1,)) for index in range(20)},
    "second/bfloat": ("bfloat16", (3, 1, 2)),
    "second/int": ("int32", (4,)),
    "second/kernel": ("float32", (3, 3, 2, 4)),
}
MANY = 10_000  # tensors fill more than one block of an index
LAYER_SIDES, KERNELS = (7, 8), (3, 5)
BICUBIC = ((13, 17, 20), (13, 17, 7), (24, 19, 21), (30, 40, 11))  # height, width, side of the result


def uniform(name: str, shape: Shape) -> np.ndarray:
    """float32 fractions in [0, 1), multiples of 2**-24."""
    raw = np.random.PCG64(zlib.crc32(name.encode())).random_raw(prod(shape))
    return ((raw >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)).reshape(shape)


def variable(name: str, shape: Shape, gain: float = 1.0) -> np.ndarray:
    """float32 (shape): the variable `name` of a network, a moving average of it, or an optimizer's slot of it.

    Kernels have variance gain^2 * 2 / fan-in, scales and variances lie in [0.5, 1.5), offsets and means in
    [-0.5, 0.5), roots of SmoothReLU's beta in [1, 5).
    """
    fraction = uniform(name, shape)
    leaf = _without_suffix(name).rpartition("/")[2]
    if leaf == "EMA":
        leaf = _without_suffix(name).split("/")[-2]
    if leaf in ("W", "kernel", "depthwise_kernel"):
        fan_in = prod(shape[:2]) if leaf == "depthwise_kernel" else prod(shape[:-1])
        bound = np.float32(gain * (6 / fan_in) ** 0.5)
        return (2 * fraction - 1) * bound
    low, width = {
        **dict.fromkeys(("gamma", "variance", "moving_variance"), (0.5, 1)),
        **dict.fromkeys(("beta", "mean", "moving_mean", "b", "bias"), (-0.5, 1)),
        "smoothrelu_beta": (1, 4),
    }[leaf]
    return np.float32(low) + np.float32(width) * fraction


def _without_suffix(name: str) -> str:
    for suffix in ("/ExponentialMovingAverage", "/Momentum", "/RMSProp", "/RMSProp_1"):
        name = name.removesuffix(suffix)
    return name


def images(size: int) -> np.ndarray:
    """uint8 RGB (2, size, size, 3): noise on patches of 8 x 8 pixels, so that the means differ too."""
    patches = uniform(f"patches {size}", (BATCH, -(-size // 8), -(-size // 8), 3))
    coarse = patches.repeat(8, axis=1).repeat(8, axis=2)[:, :size, :size]
    fine = uniform(f"noise {size}", coarse.shape)
    return (192 * coarse + 64 * fine).astype(np.uint8)


def network_input(plan: Plan, pixels: np.ndarray, dtype: type[np.floating] = np.float32) -> np.ndarray:
    """NHWC in [-1, 1], as the release feeds the network, which does it in float32."""
    ordered = pixels[..., ::-1] if isinstance(plan, ResNetPlan) else pixels
    return ordered.astype(dtype) * dtype(2 / 255) - 1


def many_name(number: int) -> str:
    """Names that share little with their neighbours, since an index leaves out what they share."""
    return f"{number:05d}/tensor/of/one/number/among/very/many"


def activation_inputs() -> np.ndarray:
    return np.linspace(-30, 30, 241, dtype=np.float32)


def batch_norm_inputs() -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """float32 (1, 4, 4, 6) and its gamma, beta, mean and variance; the variances are so small that eps decides."""
    names = ("gamma", "beta", "mean", "variance")
    statistics = {name: uniform(f"batch_norm/{name}", (6,)) for name in names}
    statistics["variance"] *= np.float32(1e-4)
    return uniform("batch_norm", (1, 4, 4, 6)), statistics


def numbers(dtype: str, shape: Shape) -> np.ndarray:
    """1, 2, 3, ... in C order, which every dtype holds exactly; bfloat16 as float32, for NumPy has none."""
    return np.arange(1, prod(shape) + 1).reshape(shape).astype("float32" if dtype == "bfloat16" else dtype)
