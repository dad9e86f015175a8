"""What makes the search fast changes no verdict: every flag is that of a plain loop on the network as it is.

The loop below keeps the whole batch to the end, judges every iterate, and knows nothing of folding, of layouts, of
samples that fell or of samples that repeat themselves.
"""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from satbench.attacks.gradient import PGD
from satbench.data import load_images
from satbench.models.search_copy import search_copy
from satbench.numerics.seeding import PerSample, rows
from satbench.numerics.threat import ThreatModel
from satbench.zoo import load_model

pytestmark = pytest.mark.numeric

EPOCHS, BATCH = 6, 64


@pytest.fixture(scope="module")
def images() -> tuple[Tensor, Tensor]:
    digits = load_images("digits", "test")
    assert len(digits) >= 400
    return digits.x, digits.y


@pytest.fixture(scope="module")
def convnet() -> nn.Module:
    """Four conv-BN-SiLU, trained on digits for some seconds against one step of 0.1."""
    digits = load_images("digits", "train")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers: list[nn.Module] = []
        for number in range(4):
            conv = nn.Conv2d(16 if number else 1, 16, 3, 1 + number % 2, 1, bias=False)
            layers += [conv, nn.BatchNorm2d(16), nn.SiLU()]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.2, momentum=0.9, nesterov=True)
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(digits)).split(BATCH):
                x, y = digits.x[batch], digits.y[batch]
                given = x.clone().requires_grad_()
                (gradient,) = torch.autograd.grad(functional.cross_entropy(model(given), y), given)
                loss = functional.cross_entropy(model((x + 0.1 * gradient.sign()).clamp(0, 1)), y)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return model.eval()


def plain(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, steps: int, step: float, streams: PerSample
) -> Tensor:
    """Which samples some iterate misclassifies, bool (N,)."""
    x_adv = threat.random_start(x, streams)
    broken = torch.zeros(len(x), dtype=torch.bool)
    for _ in range(steps + 1):
        x_adv = x_adv.detach().requires_grad_()
        logits = model(x_adv)
        broken |= logits.argmax(1) != y
        (gradient,) = torch.autograd.grad(functional.cross_entropy(logits, y, reduction="sum"), x_adv)
        moved = x_adv.detach() + step * gradient.sign()
        x_adv = torch.minimum(torch.maximum(moved, x - threat.eps), x + threat.eps).clamp(0, 1)
    return broken


def assert_equal_flags(
    model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, steps: int, sizes: tuple[int, ...]
) -> None:
    """On the whole set in batches of every size, on the network and on its search copy, judged by the network."""

    def streams() -> PerSample:
        return PerSample.of(0, [f"digits/{row}" for row in range(len(x))], "attack")

    wanted = plain(model, x, y, threat, steps, threat.eps / 4, streams())
    share = wanted.float().mean()
    assert 0.2 < share < 0.8, f"{share:.2f} broken; an eps of another size shows more"
    made = search_copy(model, x[:8])
    assert made.how.startswith("folded")
    attack = PGD(steps=steps, step_size=threat.eps / 4)
    for what, search, size in [("network", model, len(x)), *(("copy", made.module, size) for size in sizes)]:
        source = streams()
        found = torch.cat(
            [attack(search, x[part], y[part], threat, rows(source, part)) for part in torch.arange(len(x)).split(size)]
        )
        with torch.no_grad():
            broken = (model(found).argmax(1) != y) & threat.contains(x, found)
        assert int((broken != wanted).sum()) == 0, f"batches of {size} on the {what}"


@pytest.mark.slow
def test_a_small_convnet_in_batches_of_any_size(convnet: nn.Module, images: tuple[Tensor, Tensor]) -> None:
    """Long enough for samples to repeat themselves and be let go."""
    assert_equal_flags(convnet, *images, ThreatModel("Linf", 0.15), steps=60, sizes=(450, 37))


@pytest.mark.one_in(3)
@pytest.mark.parametrize("card", ["digits-relu", "digits-silu", "digits-smoothrelu"])
def test_the_digits_networks_of_the_zoo(card: str, images: tuple[Tensor, Tensor]) -> None:
    assert_equal_flags(load_model(card), *images, ThreatModel("Linf", 0.25), steps=20, sizes=(128,))
