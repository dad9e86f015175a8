"""The penultimate representation: what the classification layer of every network reads."""

import pytest
import torch
import torchvision
from attack_contract import assert_unchanged, mixed_model, state
from test_models import SMALL, fresh, images, spec
from torch import Tensor, nn

from satbench.core.errors import BadInput
from satbench.models import ARCHITECTURES, Classifier
from satbench.models.features import features_of

pytestmark = pytest.mark.numeric

WIDTH = {  # the width of the last group: 4 filters at first, doubled by every group
    "mlp": 4,
    "cnn-small": 16,
    "preact-resnet18": 32,
    "preact-resnet50": 128,
    "resnet18-cifar": 32,
    "wide-resnet": 64,
    "resnet50": 128,
    "efficientnet-b0": 1280,
    "timm:test_resnet": 96,
}


@pytest.mark.parametrize("architecture", SMALL)
def test_features_are_what_the_classification_layer_reads(architecture: str) -> None:
    model, x = fresh(spec(architecture)).eval(), images(3)
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    z = model.features(x)
    assert z.shape == (3, WIDTH[architecture])
    torch.testing.assert_close(z @ head.weight.T + head.bias, model(x), rtol=1e-4, atol=1e-5)


def test_every_family_is_covered() -> None:
    families = {architecture.partition("-")[0].rstrip("0123456789") for architecture in ARCHITECTURES}
    covered = {architecture.partition("-")[0].rstrip("0123456789") for architecture in SMALL}
    assert families - covered == {"resnext"}  # a resnet with groups


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "vit_b_32", "densenet121"])
def test_networks_of_torchvision_have_features(name: str) -> None:
    size = {"image_size": 32, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8, "patch_size": 8}
    if name.startswith("vit"):
        net = torchvision.models.VisionTransformer(num_classes=3, **size).eval()
    else:
        net = torchvision.models.get_model(name, weights=None, num_classes=3).eval()
    head = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
    x = images(2, 32, 3)
    torch.testing.assert_close(head(features_of(net, x)), net(x), rtol=1e-4, atol=1e-5)


def test_gradients_flow_and_nothing_is_left_behind() -> None:
    model = mixed_model()
    x = images(4, 6)
    before = state(model)
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    with torch.no_grad():
        model.eval()
    moving = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(features_of(model, moving).sum(), moving)
    assert slope.abs().sum() > 0
    assert sum(len(module._forward_hooks) for module in model.modules()) == hooks
    model.train()
    model[3].eval()
    assert_unchanged(before, state(model))


class Scaled(nn.Module):
    """Its logits are those of a linear layer, divided by a temperature."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(72, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.flatten(1)) / 2


class AppliesWeights(nn.Linear):
    """Uses the weights of a linear layer that never runs."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x.flatten(1), self.weight)


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Flatten(), nn.Linear(72, 3), nn.Softmax(1)),
        nn.Sequential(nn.Conv2d(2, 3, 6), nn.Flatten()),
        nn.Sequential(nn.Linear(6, 3), nn.AdaptiveAvgPool2d((1, 3)), nn.Flatten()),
        nn.Sequential(nn.Flatten(2), nn.Linear(36, 3)),
        Scaled(),
        nn.Sequential(AppliesWeights(72, 3), nn.Flatten()),
    ],
)
def test_a_network_that_does_not_end_in_a_linear_layer_has_no_features(net: nn.Module) -> None:
    with pytest.raises(BadInput, match=r"its last torch\.nn\.Linear layer.*give a network that ends"):
        features_of(net, images(2, 6))
    assert not any(module._forward_hooks for module in net.modules())


def test_features_refuse_images_as_the_network_does() -> None:
    model = fresh()
    assert isinstance(model, Classifier)
    with pytest.raises(BadInput, match="expected floats"):
        model.features(torch.zeros(1, 3, 8, 8))
