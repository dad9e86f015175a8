"""Networks whose robustness looks better than it is, and honest ones that must not be doubted.

All know the 8x8 digits. A bad network is a sound one with one thing spoilt.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from satbench.attacks import PGD
from satbench.data import Images, load_images
from satbench.data.images import image_set
from satbench.models import ModelSpec, build_model
from satbench.numerics.seeding import generator, normal
from satbench.numerics.threat import ThreatModel
from satbench.zoo import load_model

THREAT = ThreatModel("Linf", 0.1)
WIDE_THREAT = ThreatModel("Linf", 0.2)  # what the zoo's digits were trained for


@dataclass(frozen=True)
class Network:
    """How to build one, on what it is examined, and for a bad one the checks of which one at least must see it."""

    build: Callable[[], nn.Module]
    caught_by: tuple[str, ...] = ()
    threat: ThreatModel = THREAT
    colours: bool = False
    classes: int = 10


class Around(nn.Module):
    """`after(inner(before(x)))`."""

    def __init__(
        self,
        inner: nn.Module,
        before: Callable[[Tensor], Tensor] = lambda x: x,
        after: Callable[[Tensor], Tensor] = lambda z: z,
    ) -> None:
        super().__init__()
        self.inner, self.before, self.after = inner, before, after

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.inner(self.before(x)))


class Applied(nn.Module):
    """A function as a layer."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class _Misled(torch.autograd.Function):
    """The identity with another backward pass."""

    @staticmethod
    def forward(ctx, x: Tensor, where: Tensor) -> Tensor:
        ctx.save_for_backward(where)
        return x.clone()

    @staticmethod
    def backward(ctx, grad: Tensor):
        (where,) = ctx.saved_tensors
        return torch.where(where, -grad, grad), None


class BatchStatistics(nn.Module):
    """Normalises by the batch in eval mode too."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.batch_norm(x, None, None, training=True)


class StubbornDropout(nn.Dropout):
    """Does not follow eval()."""

    def train(self, mode: bool = True) -> "StubbornDropout":
        return super().train(True)


@cache
def images(colours: bool = False, classes: int = 10) -> Images:
    """The test digits, or of them only the first classes, or as (3, 8, 8)."""
    return _cut(load_images("digits", "test"), colours, classes)


@cache
def _training(colours: bool, classes: int) -> tuple[Tensor, Tensor]:
    kept = _cut(load_images("digits", "train"), colours, classes).in_memory()
    return kept.x, kept.y


def _cut(whole: Images, colours: bool, classes: int) -> Images:
    kept = whole.take((whole.y < classes).nonzero()[:, 0].tolist()).in_memory()
    if not colours:
        return kept
    x = kept.x * torch.tensor([1.0, 0.8, 0.6]).view(1, 3, 1, 1)
    return image_set("colours", "test", x.numpy(), kept.y.numpy(), kept.ids)


def fit(
    model: nn.Module,
    eps: float = 0.0,
    epochs: int = 8,
    colours: bool = False,
    classes: int = 10,
    lr: float = 0.05,
) -> nn.Module:
    """Train in place by SGD, against PGD-3 of `eps` where it is positive, and return in eval mode."""
    x, y = _training(colours, classes)
    attack, threat = PGD(steps=3, keep="last"), ThreatModel("Linf", eps)
    draws = generator(0, "fit")
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    rounds = epochs * (len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=rounds)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=draws).split(64)[: len(x) // 64]:
            model.train()
            given = attack(model, x[rows], y[rows], threat, draws) if eps else x[rows]
            loss = functional.cross_entropy(model(given), y[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval().requires_grad_(False)


def fresh(architecture: str, activation: str, colours: bool = False, classes: int = 10, **params: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        channels = 3 if colours else 1
        mean, std = (0.3,) * channels, (0.38,) * channels
        return build_model(ModelSpec(architecture, activation, classes, channels, 8, mean, std, params))


@cache
def robust() -> nn.Module:
    return load_model("digits-silu").requires_grad_(False)


@cache
def plain() -> nn.Module:
    return fit(fresh("mlp", "relu", width=128))


def mlp_with(*first: nn.Module, act: Callable[[], nn.Module] = nn.ReLU, inputs: int = 64, **how: float) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return fit(
            nn.Sequential(
                *first, nn.Flatten(), nn.Linear(inputs, 128), act(), nn.Linear(128, 64), act(), nn.Linear(64, 10)
            ),
            **how,
        )


def swapped(act: Callable[[], nn.Module]) -> nn.Module:
    """The standard-trained network with another function in place of its activation."""
    model = fresh("mlp", "relu", width=128)
    model.load_state_dict(plain().state_dict())
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU):
                setattr(parent, name, act())
    return model.eval().requires_grad_(False)


def linear() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)))


def steeper(model: nn.Module, by: float) -> nn.Module:
    """Hidden layers times a large number: tanh units become switches."""
    hidden = [layer for layer in model if isinstance(layer, nn.Linear)][:-1]
    for layer in hidden:
        layer.weight.mul_(by)
        layer.bias.mul_(by)
    return model


def rounded(x: Tensor, levels: int) -> Tensor:
    return (x * levels).round() / levels


def thermometer(x: Tensor) -> Tensor:
    """Ten channels that say which tenths a pixel exceeds (Buckman et al. 2018)."""
    return torch.cat([(x > i / 10).float() for i in range(10)], dim=1)


@cache
def cosines() -> Tensor:
    i = torch.arange(8.0)
    basis = torch.cos(torch.pi / 8 * (i + 0.5) * i[:, None])
    return basis / basis.norm(dim=1, keepdim=True)


def jpeg(x: Tensor) -> Tensor:
    """Coefficients of the 8x8 cosine transform, rounded to quarters."""
    basis = cosines()
    return basis.T @ rounded(basis @ x @ basis.T, 4) @ basis


def shifted(x: Tensor) -> Tensor:
    """Padded by one pixel and cut out at a random place, image by image."""
    padded = functional.pad(x, (1, 1, 1, 1))
    places = torch.randint(3, (len(x), 2)).tolist()
    return torch.stack([one[:, i : i + 8, j : j + 8] for one, (i, j) in zip(padded, places, strict=True)])


def off_grid(x: Tensor) -> Tensor:
    """Which images are no scans: some pixel is no multiple of 1/16."""
    grey = (x * 16 - (x * 16).round()).abs() < 1e-4
    return (~grey.flatten(1).all(1)).view(-1, 1, 1, 1).expand_as(x)


def jumping(x: Tensor) -> Tensor:
    """Adds a pattern whose sign turns at every 50th of the mean brightness, which a short step seldom crosses."""
    turned = (50 * x.flatten(1).mean(1)).floor() % 2
    pattern = normal(x[0], generator(0, "pattern"))
    return x + (1 - 2 * turned).view(-1, 1, 1, 1) * pattern


def raising(x: Tensor) -> Tensor:
    raise RuntimeError("no kernel for this device")


def raising_at_large(x: Tensor) -> Tensor:
    if x.requires_grad:
        raise NotImplementedError("inference only")
    return x


def masked_nan(z: Tensor) -> Tensor:
    return torch.log(z - z.mean(1, keepdim=True))


def net_of_bits() -> nn.Module:
    return mlp_with(Applied(thermometer), inputs=640)


BAD: dict[str, Network] = {
    "logits times 1e6": Network(lambda: Around(robust(), after=lambda z: 1e6 * z), ("outputs", "gradients")),
    "logits times 1e3": Network(lambda: Around(plain(), after=lambda z: 1e3 * z), ("gradients", "other loss")),
    "probabilities": Network(lambda: Around(plain(), after=lambda z: z.softmax(1)), ("outputs",)),
    "one-hot": Network(
        lambda: Around(robust(), after=lambda z: functional.one_hot(z.argmax(1), 10).float()), ("gradients",)
    ),
    "saturated input": Network(
        lambda: mlp_with(Applied(lambda x: torch.sigmoid(500 * (x - 0.47)))),
        ("direction",),
    ),
    "saturated units": Network(lambda: steeper(mlp_with(act=nn.Tanh), 100), ("gradients", "direction")),
    "saturated logits": Network(
        lambda: Around(plain(), after=lambda z: torch.tanh(5 * z) + 1e-3 * z.detach()),
        ("gradients",),
    ),
    "quantised input": Network(lambda: Around(plain(), before=partial(rounded, levels=4)), ("gradients",)),
    "quantised input, 8 bits": Network(
        lambda: Around(robust(), before=partial(rounded, levels=255)), ("gradients",), threat=WIDE_THREAT
    ),
    "quantised, straight through": Network(
        lambda: Around(plain(), before=lambda x: x + (rounded(x, 16) - x).detach()),
        ("quantisation",),
    ),
    "cosine transform": Network(lambda: Around(plain(), before=jpeg), ("gradients", "quantisation")),
    "thermometer": Network(net_of_bits, ("gradients", "quantisation")),
    "square root": Network(lambda: Around(robust(), before=lambda x: x.sqrt().square()), ("gradients",)),
    "NaN logits": Network(lambda: Around(robust(), after=masked_nan), ("outputs",)),
    "detached input": Network(lambda: Around(robust(), before=lambda x: x.detach()), ("gradients",)),
    "raises": Network(lambda: Around(robust(), before=raising), ("outputs",)),
    "raises with gradients": Network(lambda: Around(robust(), before=raising_at_large), ("gradients",)),
    "constant": Network(lambda: Around(robust(), before=lambda x: 0 * x), ("outputs",)),
    "noise": Network(lambda: Around(robust(), before=lambda x: x + 0.05 * torch.randn_like(x)), ("randomness",)),
    "random shift": Network(lambda: Around(robust(), before=shifted), ("randomness",)),
    "functional dropout": Network(
        lambda: swapped(lambda: Applied(lambda x: functional.dropout(x.relu(), 0.3, training=True))),
        ("randomness",),
    ),
    "dropout left on": Network(lambda: swapped(lambda: nn.Sequential(nn.ReLU(), StubbornDropout(0.3))), ("modes",)),
    "stepped activation": Network(
        lambda: swapped(lambda: Applied(lambda x: rounded(x.relu(), 4))),
        ("gradients", "quantisation"),
    ),
    "batch statistics": Network(lambda: mlp_with(BatchStatistics()), ("batches",)),
    "pixels to 255": Network(lambda: Around(robust(), before=lambda x: x / 255), ("input range",)),
    "misled": Network(
        lambda: Around(robust(), before=lambda x: _Misled.apply(x, torch.ones_like(x, dtype=torch.bool))),
        ("direction", "large radius", "black box"),
    ),
    "misled off the scans": Network(
        lambda: Around(robust(), before=lambda x: _Misled.apply(x, off_grid(x))),
        ("direction", "standing images", "more effort", "black box", "large radius"),
        WIDE_THREAT,
    ),
    "jumps": Network(lambda: Around(plain(), before=jumping), ("direction",)),
    "shattered": Network(
        lambda: Around(plain(), before=lambda x: x + 0.02 * torch.sin(3000 * x)),
        ("direction", "large radius", "standing images"),
    ),
}


def certified() -> nn.Module:
    """A ReLU network trained on interval bounds (Gowal et al. 2018)."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = [nn.Linear(64, 128), nn.Linear(128, 64), nn.Linear(64, 10)]
    x, y = _training(False, 10)
    x = x.flatten(1)
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    optimizer, draws = torch.optim.Adam(parameters, 4e-3), generator(0, "certified")
    for epoch in range(16):
        eps = 0.1 * min(1.0, epoch / 8)
        for rows in torch.randperm(len(x), generator=draws).split(64):
            centre, radius = x[rows], torch.full_like(x[rows], eps)
            clean = x[rows]
            for i, layer in enumerate(layers):
                centre, radius, clean = layer(centre), functional.linear(radius, layer.weight.abs()), layer(clean)
                if i < 2:
                    low, high = (centre - radius).relu(), (centre + radius).relu()
                    centre, radius, clean = (low + high) / 2, (high - low) / 2, clean.relu()
            one_hot = functional.one_hot(y[rows], 10)
            worst = centre + radius * (1 - 2 * one_hot)
            loss = (functional.cross_entropy(worst, y[rows]) + functional.cross_entropy(clean, y[rows])) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    act = nn.ReLU()
    return nn.Sequential(nn.Flatten(), layers[0], act, layers[1], act, layers[2]).eval().requires_grad_(False)


HONEST: dict[str, Network] = {
    "digits-relu": Network(lambda: load_model("digits-relu"), threat=WIDE_THREAT),
    "digits-silu": Network(robust, threat=WIDE_THREAT),
    "digits-smoothrelu": Network(lambda: load_model("digits-smoothrelu"), threat=WIDE_THREAT),
    "standard mlp": Network(plain),
    "standard cnn, elu": Network(lambda: fit(fresh("cnn-small", "elu", width=8))),
    "standard, small radius": Network(plain, threat=ThreatModel("Linf", 0.02)),
    "trained mlp, gelu": Network(lambda: fit(fresh("mlp", "gelu", width=128), eps=0.1)),
    "trained mlp, softplus": Network(lambda: fit(fresh("mlp", "softplus", width=128), eps=0.1)),
    "trained mlp, tanh": Network(lambda: mlp_with(act=nn.Tanh, eps=0.1)),
    "trained mlp, wide": Network(lambda: fit(fresh("mlp", "relu", width=1024, depth=1), eps=0.1, epochs=5)),
    "standard preact": Network(lambda: fit(fresh("preact-resnet18", "silu", width=4), epochs=2)),
    "linear": Network(linear),
    "logits by 10": Network(lambda: Around(robust(), after=lambda z: z / 10), threat=WIDE_THREAT),
    "logits times 10": Network(lambda: Around(robust(), after=lambda z: 10 * z), threat=WIDE_THREAT),
    "log-probabilities": Network(lambda: Around(robust(), after=lambda z: z.log_softmax(1)), threat=WIDE_THREAT),
    "two classes": Network(lambda: fit(fresh("mlp", "silu", classes=2, width=64), eps=0.1, classes=2), classes=2),
    "three channels": Network(
        lambda: fit(fresh("cnn-small", "relu", colours=True, width=8), colours=True, lr=0.2), colours=True
    ),
    "dropout in its place": Network(lambda: mlp_with(act=lambda: nn.Sequential(nn.ReLU(), nn.Dropout(0.2)), eps=0.1)),
    "certified": Network(certified),
    "L2": Network(robust, threat=ThreatModel("L2", 0.8)),
    "L1": Network(robust, threat=ThreatModel("L1", 4.0)),
}
