"""Every name of satbench's own that a command takes, so that a wrong one is refused before torch is imported.

The rooms that the names belong to build their tables from these. A value is `module:attribute` in that room; the
attribute is what the name stands for, or a table that holds it. A data set also says whether a path follows its name.
An activation's module is named in full.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

ATTACKS = {  # a module is imported at the first use of its attack: some are slow to import
    "fgsm": "gradient:fgsm",
    "pgd": "gradient:PGD",
    "sat-pgd": "gradient:sat_pgd",
    "autoattack": "autoattack:AutoAttack",
    "apgd-ce": "autoattack:apgd_ce",
    "apgd-dlr": "autoattack:apgd_dlr",
    "apgd-t": "autoattack:apgd_t",
    "fab": "autoattack:fab",
    "fab-t": "autoattack:fab_t",
    "square": "autoattack:square",
    "cascade": "cascade:Cascade",
    "rapid": "rapid:Rapid",
    "knn-guided": "knn_guided:KNNGuided",
}
AUTOATTACK_KEYS = ("unit", "version")
ATTACK_KEYS = {  # parameters that are checked before torch is imported; of other attacks when they are built
    "fgsm": ("loss", "step_size", "init"),
    "pgd": (
        *("steps", "step_size", "loss", "init", "restarts", "keep", "momentum", "schedule", "n_targets", "patience"),
        *("early_stop", "eot"),
    ),
    "sat-pgd": ("steps",),
    "autoattack": ("version", "components", "unit"),
    "apgd-ce": AUTOATTACK_KEYS,
    "apgd-dlr": AUTOATTACK_KEYS,
    "apgd-t": AUTOATTACK_KEYS,
    "fab": AUTOATTACK_KEYS,
    "fab-t": AUTOATTACK_KEYS,
    "square": AUTOATTACK_KEYS,
    "cascade": ("unit",),
    "rapid": ("early_stop",),
    "knn-guided": ("steps", "step_size", "restarts", "guides"),
}
METHODS = {
    "standard": "standard:Standard",
    "pgd_at": "pgd_at:PGDAT",
    "trades": "trades:TRADES",
    "mart": "mart:MART",
    "awp": "awp:awp",
    "fgsm_rs": "fgsm_rs:FGSMRS",
    "n_fgsm": "n_fgsm:NFGSM",
    "gradalign": "gradalign:GradAlign",
    "free": "free:Free",
    "moat": "moat:MOAT",
    "aft": "aft:AFT",
    "sglr": "sglr:SGLR",
    "te": "temporal_ensembling:TemporalEnsembling",
    "adr": "adr:ADR",
    "simclr": "simclr:SimCLR",
    "ssl_at": "ssl_at:SSLAT",
}
RECIPES = {
    "digits-sat": "digits:digits_sat",
    "digits-sat-single-step": "digits:digits_sat_single_step",
    "digits-standard": "digits:digits_standard",
    "digits-quick": "digits:digits_quick",
    "digits-pgd-at": "digits:digits_pgd_at",
    "digits-trades": "digits:digits_trades",
    "digits-mart": "digits:digits_mart",
    "digits-awp": "digits:digits_awp",
    "digits-fgsm-rs": "digits:digits_fgsm_rs",
    "digits-n-fgsm": "digits:digits_n_fgsm",
    "digits-gradalign": "digits:digits_gradalign",
    "digits-free": "digits:digits_free",
    "digits-sglr": "digits_labels:digits_sglr",
    "digits-sglr-trades": "digits_labels:digits_sglr_trades",
    "digits-self-adaptive": "digits_labels:digits_self_adaptive",
    "digits-te": "digits_labels:digits_te",
    "digits-te-trades": "digits_labels:digits_te_trades",
    "digits-adr": "digits_labels:digits_adr",
    "digits-adr-trades": "digits_labels:digits_adr_trades",
    "digits-ema": "digits:digits_ema",
    "digits-swa": "digits:digits_swa",
    "digits-bag-of-tricks": "digits:digits_bag_of_tricks",
    "digits-moat": "digits:digits_moat",
    "digits-aft": "digits:digits_aft",
    "digits-simclr": "digits:digits_simclr",
    "digits-ssl-at": "digits:digits_ssl_at",
    "digits-collapse": "digits:digits_collapse",
    "digits-surrogate-none": "digits:digits_surrogate_none",
    "digits-surrogate-attacker": "digits:digits_surrogate_attacker",
    "digits-surrogate-optimizer": "digits:digits_surrogate_optimizer",
    "digits-surrogate-both": "digits:digits_surrogate_both",
    "cifar10-standard": "cifar10:cifar10_standard",
    "cifar10-pgd-at": "cifar10:cifar10_pgd_at",
    "cifar10-sat": "cifar10:cifar10_sat",
    "cifar10-sat-single-step": "cifar10:cifar10_sat_single_step",
    "cifar10-bag-of-tricks": "cifar10:cifar10_bag_of_tricks",
    "cifar10-trades": "cifar10:cifar10_trades",
    "cifar10-mart": "cifar10:cifar10_mart",
    "cifar10-awp": "cifar10:cifar10_awp",
    "cifar10-trades-awp": "cifar10:cifar10_trades_awp",
    "cifar10-fgsm-rs": "cifar10:cifar10_fgsm_rs",
    "cifar10-free": "cifar10:cifar10_free",
    "cifar10-n-fgsm": "cifar10:cifar10_n_fgsm",
    "cifar10-gradalign": "cifar10:cifar10_gradalign",
    "cifar10-sglr": "cifar10_labels:cifar10_sglr",
    "cifar10-sglr-trades": "cifar10_labels:cifar10_sglr_trades",
    "cifar10-self-adaptive": "cifar10_labels:cifar10_self_adaptive",
    "cifar10-te": "cifar10_labels:cifar10_te",
    "cifar10-te-trades": "cifar10_labels:cifar10_te_trades",
    "cifar10-adr": "cifar10_labels:cifar10_adr",
    "cifar10-adr-trades": "cifar10_labels:cifar10_adr_trades",
    "cifar10-adr-awp": "cifar10_labels:cifar10_adr_awp",
    "cifar10-ssl-at": "cifar10:cifar10_ssl_at",
    "cifar10-ema": "cifar10:cifar10_ema",
    "cifar10-swa": "cifar10:cifar10_swa",
    "cifar10-jpeg-sat-small": "cifar10_jpeg:cifar10_jpeg_sat_small",
    "imagenet-sat-resnet50": "imagenet:imagenet_sat_resnet50",
    "imagenet-relu-resnet50": "imagenet:imagenet_relu_resnet50",
}


class DataSet(NamedTuple):
    """Where a data set lies in its room, what follows its name, and the folder that it is where no PATH follows."""

    where: str
    path: str = ""
    folder: str = ""


DATA_SETS = {
    "digits": DataSet("digits:digits"),
    "imagenet-sample": DataSet("samples:imagenet_sample"),
    "mnist": DataSet("published:PUBLISHED", "[:PATH]"),
    "cifar10": DataSet("published:PUBLISHED", "[:PATH]"),
    "cifar100": DataSet("published:PUBLISHED", "[:PATH]"),
    "svhn": DataSet("published:PUBLISHED", "[:PATH]"),
    "imagenet": DataSet("imagenet:imagenet", "[:PATH]"),
    "cifar10-jpeg": DataSet("cifar10_jpeg:cifar10_jpeg", "[:PATH]", folder="cifar10-jpeg"),
    "image_folder": DataSet("image_folder:image_folder", ":PATH"),
    "npz": DataSet("npz:npz", ":PATH"),
}
ARCHITECTURES = {
    "mlp": "mlp:mlp",
    "cnn-small": "cnn:cnn_small",
    "preact-resnet18": "preact_resnet:PREACT_RESNETS",
    "preact-resnet34": "preact_resnet:PREACT_RESNETS",
    "preact-resnet50": "preact_resnet:PREACT_RESNETS",
    "resnet18-cifar": "resnet_cifar:resnet18_cifar",
    "wide-resnet": "wide_resnet:wide_resnet",
    "resnet50": "resnet:RESNETS",
    "resnet101": "resnet:RESNETS",
    "resnet152": "resnet:RESNETS",
    "resnext50-32x4d": "resnet:RESNETS",
    "resnext50-32x8d": "resnet:RESNETS",
    "resnext152-32x8d": "resnet:RESNETS",
    **{f"efficientnet-b{number}": "efficientnet:EFFICIENTNETS" for number in range(8)},
    "efficientnet-l1": "efficientnet:EFFICIENTNETS",
}
LOADERS = {
    "opencv-cubic": "loaders:opencv_cubic",
    "tf1-bicubic": "loaders:tf1_bicubic",
    "torchvision": "loaders:torchvision_bilinear",
}


class Activation(NamedTuple):
    """A factory of modules, one for each site of a network, with its parameters at their defaults.

    `smoothness` is the number of continuous derivatives at every point: 0 for a kink, `math.inf` for a smooth function;
    it is stated for the default parameters.
    """

    where: str
    smoothness: float
    formula: str
    parameters: Mapping[str, float] = MappingProxyType({})


OWN = "satbench.models.activations"
ACTIVATIONS = {
    "relu": Activation("torch.nn:ReLU", 0, "max(x, 0)"),
    "silu": Activation("torch.nn:SiLU", math.inf, "x sigmoid(x)"),
    "gelu": Activation(f"{OWN}:tanh_gelu", math.inf, "x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))"),
    "gelu_exact": Activation("torch.nn:GELU", math.inf, "x Phi(x)"),
    "softplus": Activation("torch.nn:Softplus", math.inf, "log(1 + exp(x))"),
    "parametric_softplus": Activation(
        f"{OWN}:parametric_softplus", math.inf, "log(1 + exp(alpha x)) / alpha", {"alpha": 10.0}
    ),
    "leaky_relu": Activation("torch.nn:LeakyReLU", 0, "max(x, 0) + negative_slope min(x, 0)", {"negative_slope": 0.01}),
    "elu": Activation("torch.nn:ELU", 1, "x for x >= 0, alpha (exp(x) - 1) below; C0 unless alpha = 1", {"alpha": 1.0}),
    "celu": Activation(
        "torch.nn:CELU", 1, "x for x >= 0, alpha (exp(x / alpha) - 1) below; C1 for every alpha", {"alpha": 1.0}
    ),
    "mish": Activation("torch.nn:Mish", math.inf, "x tanh(log(1 + exp(x)))"),
    "smoothrelu": Activation(
        f"{OWN}:SmoothReLU", 1, "x - log(1 + r^2 x) / r^2 for x >= 0, 0 below; r learnable, one a site"
    ),
    "psilu": Activation(f"{OWN}:PSiLU", math.inf, "x sigmoid(|alpha| x); alpha learnable, one a site", {"alpha": 1.0}),
    "pssilu": Activation(
        f"{OWN}:PSSiLU",
        math.inf,
        "x (sigmoid(|alpha| x) - |beta|) / (1 - |beta|); alpha and beta learnable, a pair a site",
        {"alpha": 1.0, "beta": 1e-8},
    ),
}


def data_set_forms() -> list[str]:
    """How each data set is given, such as `cifar10[:PATH]`."""
    return [f"{name}{one.path}" for name, one in DATA_SETS.items()]
