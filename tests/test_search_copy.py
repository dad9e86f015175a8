"""The private copy that attacks search on: the network's logits and gradients, faster, and never the network itself."""

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from satbench.core.errors import BadInput
from satbench.models import ModelSpec, build_model
from satbench.models.search_copy import search_copy
from satbench.models.weights import model_digest

pytestmark = pytest.mark.numeric

PROBE = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
OTHERS = torch.rand(9, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def lived_in(model: nn.Module) -> nn.Module:
    """With batch norms as after a training: every statistic and factor is its own."""
    source = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.5, 0.5),
                (module.running_mean, -0.5, 0.5),
                (module.running_var, 0.5, 2.0),
            ):
                if tensor is not None:
                    nn.init.uniform_(tensor, low, high, generator=source)
    return model


def network(architecture: str, **params: Any) -> nn.Module:
    torch.manual_seed(0)
    return lived_in(
        build_model(ModelSpec(architecture, "silu", 5, 3, 16, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), params))
    ).eval()


def logits_and_gradient(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    logits = model(x)
    (gradient,) = torch.autograd.grad(logits.logsumexp(1).sum() - logits[:, 0].sum(), x)
    return logits.detach(), gradient


def assert_same_function(found: nn.Module, wanted: nn.Module, x: Tensor = OTHERS) -> None:
    for one, other in zip(logits_and_gradient(found, x), logits_and_gradient(wanted, x), strict=True):
        assert one.dtype == torch.float32
        assert (one - other).abs().max() <= 1e-4 * other.abs().max()


class Block(nn.Module):
    """A convolution, a batch norm and what `between` makes of them."""

    def __init__(self, between: Callable[["Block", Tensor], Tensor], conv: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.between, self.conv, self.bn = between, conv, norm
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(functional.silu(self.between(self, x)).mean((2, 3)))
        return logits


def block(
    between: Callable[[Block, Tensor], Tensor] = lambda self, x: self.bn(self.conv(x)),
    conv: nn.Module | None = None,
    norm: nn.Module | None = None,
) -> Block:
    torch.manual_seed(0)
    conv = nn.Conv2d(3, 6, 3) if conv is None else conv
    made = lived_in(Block(between, conv, nn.BatchNorm2d(6) if norm is None else norm)).eval()
    assert isinstance(made, Block)
    return made


@pytest.mark.parametrize(
    ("architecture", "folded", "params"),
    [
        ("cnn-small", 3, {"width": 8}),
        ("preact-resnet18", 8, {"width": 8}),  # conv1 to bn2 of eight blocks; the other norms follow a sum
        ("resnet50", 53, {"width": 8}),  # all of them
        ("efficientnet-b0", 49, {}),  # all of them, behind SAME padding of its own
    ],
)
def test_norms_are_folded_wherever_they_follow_a_convolution(
    architecture: str, folded: int, params: dict[str, int]
) -> None:
    model = network(architecture, **params)
    made = search_copy(model, PROBE)
    assert made.how == f"folded {folded} batch norms, channels last, float32"
    assert made.private
    before, after = (sum(isinstance(part, nn.BatchNorm2d) for part in net.modules()) for net in (model, made.module))
    assert before - after == folded
    assert_same_function(made.module, model)


def test_a_network_without_convolutions_keeps_its_layout() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 20), nn.BatchNorm1d(20), nn.SiLU(), nn.Linear(20, 5))
    made = search_copy(lived_in(model).eval(), PROBE)
    assert made.how == "folded 1 batch norm, float32"
    assert_same_function(made.module, model)
    plain = network("mlp", width=8)
    assert search_copy(plain, PROBE).how == "a plain copy, float32"


def changes_its_mind(self: Block, x: Tensor) -> Tensor:
    """Python that no tracer follows."""
    mean = float(x.detach().mean())
    return self.bn(self.conv(x if mean > 0.3 else 1 - x)) * (1 if x.shape[0] > 100 else 2)


FOLDABLE: dict[str, Callable[[], nn.Module]] = {
    "control flow": lambda: block(changes_its_mind),
    "no affine factors": lambda: block(norm=nn.BatchNorm2d(6, affine=False)),
    "groups, stride and no bias": lambda: block(conv=nn.Conv2d(3, 6, 3, 2, 1, groups=3, bias=False)),
    "an activation in the norm": lambda: block(norm=ActiveNorm(6)),
}
UNFOLDABLE: dict[str, Callable[[], nn.Module]] = {
    "the convolution's output is used elsewhere": lambda: block(
        lambda self, x: (lambda out: self.bn(out) + out.relu())(self.conv(x))
    ),
    "changed in place before the norm": lambda: block(lambda self, x: self.bn(self.conv(x).relu_())),
    "the convolution runs twice": lambda: with_twin(
        lambda self, x: self.bn(self.conv(x)) + self.twin(self.conv(1 - x)), nn.BatchNorm2d(6, eps=0.1)
    ),
    "the norm runs twice": lambda: block(lambda self, x: self.bn(self.bn(self.conv(x)))),
    "batch statistics": lambda: block(norm=nn.BatchNorm2d(6, track_running_stats=False)),
    "a hook on the convolution": lambda: hooked("conv", lambda module, given, output: 2 * output),
    "a hook on the norm that only the gradient shows": lambda: hooked("bn", None),
    "a parametrized weight": lambda: block(conv=nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3))),
    "a convolution of its own kind": lambda: block(conv=Standardised(3, 6, 3)),
}


class ActiveNorm(nn.BatchNorm2d):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.act(super().forward(x))
        return out


class Standardised(nn.Conv2d):
    """Its weight is not the one it convolves with, so there is nothing to fold into."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight / self.weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return functional.conv2d(x, weight, self.bias)


def with_twin(between: Callable[[Block, Tensor], Tensor], twin: nn.Module) -> nn.Module:
    model = block(between)
    model.twin = twin.eval()
    return model


def hooked(name: str, forward: Callable[..., Tensor] | None) -> nn.Module:
    model = block()
    part = model.get_submodule(name)
    if forward is None:
        part.register_full_backward_hook(lambda module, given, output: (3 * given[0],))
    else:
        part.register_forward_hook(forward)
    return model


@pytest.mark.parametrize("case", FOLDABLE)
def test_what_can_be_folded_is(case: str) -> None:
    model = FOLDABLE[case]()
    made = search_copy(model, PROBE)
    assert made.how == "folded 1 batch norm, channels last, float32"
    assert_same_function(made.module, model)


@pytest.mark.parametrize("case", UNFOLDABLE)
def test_what_cannot_be_folded_is_left_alone(case: str) -> None:
    model = UNFOLDABLE[case]()
    made = search_copy(model, PROBE)
    assert made.how == "channels last, float32"
    assert_same_function(made.module, model)


def test_weights_tied_elsewhere_keep_their_values() -> None:
    def tied(self: Block, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)) + self.twin(x)

    model = with_twin(tied, nn.Conv2d(3, 6, 3))
    model.twin.weight = model.conv.weight
    made = search_copy(model, PROBE)
    assert made.how == "folded 1 batch norm, channels last, float32"
    assert_same_function(made.module, model)


def test_a_forward_that_reads_its_norm_or_views_its_planes_gets_a_plainer_copy() -> None:
    reading = block(lambda self, x: self.bn(self.conv(x)) * self.bn.weight.view(-1, 1, 1))
    made = search_copy(reading, PROBE)
    assert made.how.startswith("channels last, because a faster form failed (AttributeError")
    assert_same_function(made.module, reading)

    viewing = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), Flat(), nn.Linear(4 * 14 * 14, 5))
    made = search_copy(lived_in(viewing).eval(), PROBE)
    assert made.how.startswith("folded 1 batch norm, because a faster form failed (RuntimeError: view size")
    assert_same_function(made.module, viewing)


class Flat(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(len(x), -1)


def test_the_model_is_left_as_it_was_and_shares_nothing_with_its_copy() -> None:
    model = network("preact-resnet18", width=8).train()
    model.net[1].bn1.eval()
    next(model.parameters()).requires_grad_(False)
    functional.cross_entropy(model(PROBE), torch.arange(4)).backward()
    calls: list[int] = []
    model.register_forward_hook(lambda module, given, output: calls.append(len(output)))
    modes = [part.training for part in model.modules()]
    wanted = [one.requires_grad for one in model.parameters()]
    gradients = [None if one.grad is None else one.grad.clone() for one in model.parameters()]
    layouts = [one.stride() for one in model.state_dict().values()]
    digest, state = model_digest(model), torch.get_rng_state()

    made = search_copy(model, PROBE)
    assert not any(part.training for part in made.module.modules())
    assert not any(one.requires_grad for one in made.module.parameters())
    with torch.no_grad():
        for tensor in made.module.state_dict().values():
            tensor.zero_()
    made.module.train()

    assert model_digest(model) == digest
    assert torch.equal(torch.get_rng_state(), state)
    assert [part.training for part in model.modules()] == modes
    assert [one.requires_grad for one in model.parameters()] == wanted
    assert [one.stride() for one in model.state_dict().values()] == layouts
    assert len(model._forward_hooks) == 1
    for one, gradient in zip(model.parameters(), gradients, strict=True):
        assert (one.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(one.grad, gradient)


class Restless(nn.Module):
    """Evaluation mode does not stop its norm from learning."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = block()

    def forward(self, x: Tensor) -> Tensor:
        self.inner.bn.train()
        logits: Tensor = self.inner(x)
        return logits


def test_a_model_that_changes_its_buffers_keeps_them() -> None:
    model = Restless()
    digest = model_digest(model)
    made = search_copy(model, PROBE)
    assert made.how == "channels last, float32"
    assert model_digest(model) == digest
    assert_same_function(made.module, model)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning")
def test_a_scripted_model_is_copied_as_it_is() -> None:
    model = torch.jit.trace(block(), PROBE)
    made = search_copy(model, PROBE)
    assert made.how == "a plain copy, float32"
    assert made.private
    assert not any(one.requires_grad for one in made.module.parameters())
    assert_same_function(made.module, model)


def test_a_copy_costs_the_weights_once() -> None:
    model = network("resnet50", width=8)
    made = search_copy(model, PROBE).module
    sizes = [sum(one.numel() for one in net.state_dict().values()) for net in (made, model)]
    assert sizes[0] <= sizes[1]


def test_random_networks_are_compared_on_equal_draws() -> None:
    model = block(lambda self, x: self.bn(self.conv(x + 0.5 * torch.randn(x.shape))))
    made = search_copy(model, PROBE)
    assert made.how == "folded 1 batch norm, channels last, float32"
    torch.manual_seed(3)
    found = made.module(OTHERS)
    torch.manual_seed(3)
    assert torch.allclose(found, model(OTHERS), atol=1e-5)


class Uncopyable(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.lines = inner, (line for line in ())

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x)
        return logits


class Forgetful(nn.Module):
    """A copy of it is another network."""

    def __init__(self, sign: int = 1) -> None:
        super().__init__()
        self.inner, self.sign = nn.Linear(768, 5), sign

    def __deepcopy__(self, memo: dict[int, Any]) -> "Forgetful":
        other = Forgetful(-self.sign)
        other.inner = copy.deepcopy(self.inner, memo)
        return other

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.sign * self.inner(x.flatten(1))
        return logits


@pytest.mark.parametrize(
    ("model", "reason"), [(Uncopyable(block()), "TypeError: cannot pickle"), (Forgetful(), "other logits")]
)
def test_where_no_copy_would_do_it_is_the_model_itself(model: nn.Module, reason: str) -> None:
    made = search_copy(model, PROBE)
    assert made.module is model
    assert not made.private
    assert made.how.startswith(f"the model itself, because no copy of it computes the same ({reason}")
    with pytest.raises(BadInput, match="search in float32"):
        search_copy(model, PROBE, "bf16")


def test_a_search_in_bf16_says_so_and_gives_float32() -> None:
    model = network("cnn-small", width=8)
    made = search_copy(model, PROBE, "bf16")
    assert made.how.startswith("folded 3 batch norms, channels last, bf16 with logits off by ")
    exact, near = logits_and_gradient(model, OTHERS), logits_and_gradient(made.module, OTHERS)
    for one, other in zip(near, exact, strict=True):
        assert one.dtype == torch.float32
        off = (one - other).abs().max() / other.abs().max()
        assert 1e-5 < off < 0.05  # bfloat16 keeps 8 bits; float32 would be below
    with pytest.raises(BadInput, match="unknown precision 'fp8'"):
        search_copy(model, PROBE, "fp8")


@pytest.mark.slow
def test_copying_imports_no_compiler() -> None:
    code = (
        "import sys, torch\nfrom satbench.models.search_copy import search_copy\n"
        "net = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2), torch.nn.Flatten())\n"
        "assert 'folded 1' in search_copy(net, torch.rand(2, 1, 5, 5)).how\n"
        "print([name for name in ('torch._dynamo', 'torch._inductor', 'sympy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
