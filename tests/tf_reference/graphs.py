"""The release's graphs in TensorFlow, channels last, written from a description of them.

Variables have the release's names and shapes. Described is the code of Xie et al. 2020 (arXiv 2006.14536),
github.com/cihangxie/SmoothAdversarialTraining at 988c080, folders ResNet/ and EfficientNet/. It was not run here: what
the description got wrong, these graphs and the PyTorch networks have wrong alike.
"""

import math
from collections.abc import Callable

import tensorflow as tf

from tf_reference.inputs import EfficientNetPlan, Plan, ResNetPlan

v1 = tf.compat.v1
EPS = 1e-5

Tensor = tf.Tensor


def build(plan: Plan, dtype: tf.DType = tf.float32) -> tuple[Tensor, Tensor]:
    """The placeholder (N, H, W, 3) and the logits (N, classes) of a network, in the graph that is open.

    dtype: of placeholder, variables and every operation; float32, or float64 to know the rounding error of float32.
    """
    x = v1.placeholder(dtype, (None, None, None, 3))
    with v1.variable_scope(v1.get_variable_scope(), dtype=dtype):
        return x, resnet(plan, x) if isinstance(plan, ResNetPlan) else efficientnet(plan, x)


def function(name: str, root: Callable[[], Tensor]) -> Callable[[Tensor], Tensor]:
    """An activation; `root` gives the stored scalar of SmoothReLU's beta."""

    def smoothrelu(x: Tensor) -> Tensor:
        beta = root() ** 2
        return tf.nn.relu(x - tf.math.log(1 + beta * tf.abs(x)) / beta)

    return {
        "relu": tf.nn.relu,
        "silu": lambda x: x * tf.sigmoid(x),
        "softplus": tf.nn.softplus,
        "elu": tf.nn.elu,
        "gelu": lambda x: 0.5 * x * (1 + tf.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "smoothrelu": smoothrelu,
        "mish": lambda x: x * tf.tanh(tf.nn.softplus(x)),
    }[name]


def _variable(name: str, shape: tuple[int, ...], trainable: bool = True) -> tf.Variable:
    zeros = v1.zeros_initializer()
    return v1.get_variable(name, shape, initializer=zeros, trainable=trainable, use_resource=False)


def _channels(x: Tensor) -> int:
    return x.shape[-1]


# ResNet


def resnet(plan: ResNetPlan, x: Tensor) -> Tensor:
    def act(x: Tensor, site: str) -> Tensor:
        return function(plan.activation, lambda: _variable(f"{site}/smoothrelu_beta", (1,)))(x)

    x = act(_conv_bn(x, "conv0", plan.width, 7, stride=2), "conv0")
    x = tf.nn.max_pool2d(x, 3, 2, "SAME")
    for group, count in enumerate(plan.blocks):
        for block in range(count):
            planes = plan.width * 2**group
            stride = 2 if group > 0 and block == 0 else 1
            x = _bottleneck(plan, act, x, f"group{group}/block{block}", planes, stride)
    x = tf.reduce_mean(x, (1, 2))
    return tf.matmul(x, _variable("linear/W", (_channels(x), plan.classes))) + _variable("linear/b", (plan.classes,))


def _bottleneck(
    plan: ResNetPlan, act: Callable[[Tensor, str], Tensor], x: Tensor, name: str, planes: int, stride: int
) -> Tensor:
    inner = planes * plan.group_width * plan.groups // 64
    main = act(_conv_bn(x, f"{name}/conv1", inner, 1), f"{name}/conv1")
    main = act(_conv_bn(main, f"{name}/conv2", inner, 3, stride, plan.groups), f"{name}/conv2")
    main = _conv_bn(main, f"{name}/conv3", 4 * planes, 1)
    if _channels(x) != 4 * planes:
        x = _conv_bn(x, f"{name}/convshortcut", 4 * planes, 1, stride)
    return act(main + x, name)


def _conv_bn(x: Tensor, name: str, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> Tensor:
    """Strided convolutions wider than 1 pad by hand on both sides alike; the others are SAME."""
    weights = _variable(f"{name}/W", (kernel, kernel, _channels(x) // groups, channels))
    padding = "SAME"
    if stride > 1 and kernel > 1:
        before, after = (kernel - 1) // 2, kernel // 2
        x, padding = tf.pad(x, ((0, 0), (before, after), (before, after), (0, 0))), "VALID"
    parts = [
        tf.nn.conv2d(inputs, kernels, stride, padding)
        for inputs, kernels in zip(tf.split(x, groups, 3), tf.split(weights, groups, 3), strict=True)
    ]
    y = tf.concat(parts, 3)
    gamma, beta = (_variable(f"{name}/bn/{leaf}", (channels,)) for leaf in ("gamma", "beta"))
    mean, variance = (_variable(f"{name}/bn/{leaf}/EMA", (channels,), trainable=False) for leaf in ("mean", "variance"))
    if y.dtype == tf.float64:  # which the fused operation lacks
        return tf.nn.batch_normalization(y, mean, variance, beta, gamma, EPS)
    return v1.nn.fused_batch_norm(y, gamma, beta, mean, variance, epsilon=EPS, is_training=False)[0]


# EfficientNet

# repeats, kernel, stride, expansion, channels before and after
STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)


class _Names:
    """Keras's numbering of the layers in one scope: conv2d, conv2d_1, conv2d_2, ..."""

    def __init__(self, scope: str) -> None:
        self.scope = scope
        self.count: dict[str, int] = {}

    def __call__(self, layer: str) -> str:
        number = self.count.get(layer, 0)
        self.count[layer] = number + 1
        return f"{self.scope}/{layer}_{number}" if number else f"{self.scope}/{layer}"


def rounded_filters(base: int, width: float) -> int:
    filters = base * width
    rounded = max(8, int(filters + 4) // 8 * 8)
    if rounded < 0.9 * filters:
        rounded += 8
    return rounded


def efficientnet(plan: EfficientNetPlan, x: Tensor) -> Tensor:
    silu = function("silu", root=lambda: tf.constant(0.0))
    stem = _Names(f"{plan.scope}/stem")
    x = silu(_norm(_conv(x, stem, rounded_filters(32, plan.width), 3, stride=2), stem))
    index = 0
    for repeats, kernel, stride, expansion, before, after in STAGES:
        wide = rounded_filters(after, plan.width)
        for repeat in range(math.ceil(plan.depth * repeats)):
            inputs = rounded_filters(before, plan.width) if repeat == 0 else wide
            assert inputs == _channels(x)
            x = _block(x, f"{plan.scope}/blocks_{index}", kernel, stride if repeat == 0 else 1, expansion, wide)
            index += 1
    head = _Names(f"{plan.scope}/head")
    x = silu(_norm(_conv(x, head, rounded_filters(1280, plan.width), 1), head))
    x = tf.reduce_mean(x, (1, 2))
    dense = head("dense")
    weights = _variable(f"{dense}/kernel", (_channels(x), plan.classes))
    return tf.matmul(x, weights) + _variable(f"{dense}/bias", (plan.classes,))


def _block(x: Tensor, scope: str, kernel: int, stride: int, expansion: int, channels: int) -> Tensor:
    silu = function("silu", root=lambda: tf.constant(0.0))
    names, given = _Names(scope), x
    if expansion != 1:
        x = silu(_norm(_conv(x, names, _channels(x) * expansion, 1), names))
    shape = (kernel, kernel, _channels(x), 1)
    weights = _variable(f"{names('depthwise_conv2d')}/depthwise_kernel", shape)
    x = silu(_norm(tf.nn.depthwise_conv2d(x, weights, (1, stride, stride, 1), "SAME"), names))
    squeeze = _Names(f"{scope}/se")
    gate = tf.reduce_mean(x, (1, 2), keepdims=True)
    gate = silu(_conv(gate, squeeze, max(1, int(_channels(given) * 0.25)), 1, bias=True))
    x = tf.sigmoid(_conv(gate, squeeze, _channels(x), 1, bias=True)) * x
    x = _norm(_conv(x, names, channels, 1), names)
    return x + given if stride == 1 and channels == _channels(given) else x


def _conv(x: Tensor, names: _Names, channels: int, kernel: int, stride: int = 1, bias: bool = False) -> Tensor:
    name = names("conv2d")
    x = tf.nn.conv2d(x, _variable(f"{name}/kernel", (kernel, kernel, _channels(x), channels)), stride, "SAME")
    return x + _variable(f"{name}/bias", (channels,)) if bias else x


def _norm(x: Tensor, names: _Names) -> Tensor:
    """The release's evaluation declares the variables with rank 5 and flattens them."""
    name, shape = names("tpu_batch_normalization"), (1, 1, 1, 1, _channels(x))
    gamma, beta = (tf.reshape(_variable(f"{name}/{leaf}", shape), (-1,)) for leaf in ("gamma", "beta"))
    mean, variance = (
        tf.reshape(_variable(f"{name}/{leaf}", shape, trainable=False), (-1,))
        for leaf in ("moving_mean", "moving_variance")
    )
    return tf.nn.batch_normalization(x, mean, variance, beta, gamma, EPS)
