"""Three updates of every method against a second implementation, written here from its formula alone.

Loss, weights, running statistics and memory have to agree. In float64, since the sign of a gradient near zero decides a
pixel. The trainer's `Learner` takes the updates of the method, torch's SGD both.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from satbench.core.lookup import pick
from satbench.methods import METHODS, Method, Step
from satbench.numerics.seeding import generator
from satbench.numerics.threat import ThreatModel
from satbench.training.step import Learner

pytestmark = pytest.mark.numeric

N, IMAGES, CLASSES, EPS, LR = 8, 12, 3, 0.1, 0.3
ROWS = torch.tensor([5, 0, 11, 2, 7, 3, 9, 4])  # of the batch in the training set
Memory = dict[str, Tensor]
Loss = Callable[[nn.Module], Tensor]


def network() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.SiLU(), nn.Flatten(), nn.Linear(64, CLASSES))
    return net.double()


class Batch:
    """One batch, with the numbers that the update draws for it."""

    def __init__(self, number: int) -> None:
        self.x = torch.rand(N, 1, 6, 6, generator=generator(1), dtype=torch.float64)
        self.y = torch.arange(N) % CLASSES
        self.view = torch.rand(N, 1, 6, 6, generator=generator(3), dtype=torch.float64)  # another one of each image
        self.hot = torch.eye(CLASSES, dtype=torch.float64)[self.y]
        self.epoch = number + 0.5
        self.number = number

    def uniform(self) -> Tensor:
        """In [-1, 1), as every method with a uniform start draws it."""
        return 2 * torch.rand(self.x.shape, generator=generator(2, self.number), dtype=torch.float64) - 1

    def normal(self) -> Tensor:
        return torch.randn(self.x.shape, generator=generator(2, self.number), dtype=torch.float64)

    def inside(self, images: Tensor, eps: float = EPS) -> Tensor:
        """In the ball, then in the box."""
        return torch.max(torch.min(images, self.x + eps), self.x - eps).clamp(0, 1)


# the pieces of all formulas


def log_p(logits: Tensor) -> Tensor:
    return logits - logits.exp().sum(1, keepdim=True).log()


def ce(logits: Tensor, q: Tensor) -> Tensor:
    return -(q * log_p(logits)).sum(1)


def kl(clean: Tensor, adversarial: Tensor) -> Tensor:
    return (log_p(clean).exp() * (log_p(clean) - log_p(adversarial))).sum(1)


def slope(net: nn.Module, images: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
    point = images.detach().requires_grad_()
    return torch.autograd.grad(objective(net.eval()(point)).sum(), point)[0]


def climbed(net: nn.Module, b: Batch, start: Tensor, steps: int, objective: Callable[[Tensor], Tensor]) -> Tensor:
    """PGD with the step of min(eps, 2.5 eps / steps)."""
    point = start
    for _ in range(steps):
        step = min(EPS, 2.5 * EPS / steps) * slope(net, point, objective).sign()
        point = b.inside(point + step)
    return point.detach()


def eval_logits(net: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return net.eval()(images)


def pgd_images(net: nn.Module, b: Batch, steps: int = 10) -> Tensor:
    return climbed(net, b, (b.x + EPS * b.uniform()).clamp(0, 1), steps, lambda z: ce(z, b.hot))


def trades_images(net: nn.Module, b: Batch) -> Tensor:
    clean = eval_logits(net, b.x)
    return climbed(net, b, b.inside(b.x + 0.001 * b.normal()), 10, lambda z: kl(clean, z))


# one function a method: it crafts images on the network and returns what the update is to minimise


def standard(net: nn.Module, b: Batch, memory: Memory) -> Loss:
    return lambda net: ce(net(b.x), b.hot).mean()


def pgd_at(net: nn.Module, b: Batch, memory: Memory) -> Loss:
    x_adv = pgd_images(net, b)
    return lambda net: ce(net(x_adv), b.hot).mean()


def trades(net: nn.Module, b: Batch, memory: Memory) -> Loss:
    x_adv = trades_images(net, b)

    def loss(net: nn.Module) -> Tensor:
        clean, adversarial = net(b.x), net(x_adv)
        return (ce(clean, b.hot) + 6 * kl(clean, adversarial)).mean()

    return loss


def mart(net: nn.Module, b: Batch, memory: Memory) -> Loss:
    x_adv = climbed(net, b, b.inside(b.x + 0.001 * b.normal()), 10, lambda z: ce(z, b.hot))

    def loss(net: nn.Module) -> Tensor:
        clean, adversarial = net(b.x), net(x_adv)
        p, q = log_p(clean).exp(), log_p(adversarial).exp()
        q_y, p_y = (q * b.hot).sum(1), (p * b.hot).sum(1)
        second = (q - b.hot).amax(1)  # of the other classes; the true one falls below zero
        boosted = -q_y.log() - (1.0001 - second + 1e-12).log()
        return (boosted + 5 * kl(clean, adversarial) * (1.0000001 - p_y)).mean()

    return loss


def fgsm_rs(net: nn.Module, b: Batch, memory: Memory) -> Loss:
    start = (b.x + EPS * b.uniform()).clamp(0, 1)
    x_adv = b.inside(start + 1.25 * EPS * slope(net, start, lambda z: ce(z, b.hot)).sign())
    return lambda net: ce(net(x_adv), b.hot).mean()


def n_fgsm(net: nn.Module, b: Batch, memory: Memory) -> Loss:
    noisy = (b.x + 2 * EPS * b.uniform()).clamp(0, 1)
    x_adv = (noisy + EPS * slope(net, noisy, lambda z: ce(z, b.hot)).sign()).clamp(0, 1)
    return lambda net: ce(net(x_adv), b.hot).mean()


def gradalign(net: nn.Module, b: Batch, memory: Memory) -> Loss:
    g = slope(net, b.x, lambda z: ce(z, b.hot))
    x_adv, near = b.inside(b.x + EPS * g.sign()), b.x + EPS * b.uniform()

    def loss(net: nn.Module) -> Tensor:
        point = near.requires_grad_()
        (h,) = torch.autograd.grad(ce(net.eval()(point), b.hot).sum(), point, create_graph=True)
        cosine = (g * h).flatten(1).sum(1) / (g.flatten(1).norm(dim=1) * h.flatten(1).norm(dim=1))
        return ce(net.train()(x_adv), b.hot).mean() + 0.2 * (1 - cosine).mean()

    return loss


def free(net: nn.Module, b: Batch, memory: Memory) -> Loss:
    """The gradient of the one backward pass is read from the perturbation afterwards."""
    before = memory.get("delta", torch.zeros_like(b.x))
    delta = before.clone().requires_grad_()
    delta.register_hook(lambda g: memory.update(delta=(before + EPS * g.sign()).clamp(-EPS, EPS)))
    return lambda net: ce(net((b.x + delta).clamp(0, 1)), b.hot).mean()


def refined(b: Batch, memory: Memory, clean: Tensor, adversarial: Tensor, w: float = 0.2) -> Tensor:
    """S after the update, one-hot before the first one, of a method that starts after one epoch."""
    s = memory.get("soft labels", b.hot)
    if b.epoch >= 1:
        s = 0.9 * s + 0.1 * (w * log_p(clean).exp() + (1 - w) * log_p(adversarial).exp())
    memory["soft labels"] = s = s.detach()
    return s


def sglr(net: nn.Module, b: Batch, memory: Memory) -> Loss:
    x_adv = pgd_images(net, b)

    def loss(net: nn.Module) -> Tensor:
        adversarial = net(x_adv)
        clean = net(b.x) if b.epoch >= 1 else adversarial  # in training mode, after the crafted images
        return ce(adversarial, refined(b, memory, clean, adversarial)).mean()

    return loss


def sglr_interp(net: nn.Module, b: Batch, memory: Memory) -> Loss:
    x_adv = pgd_images(net, b, steps=4)

    def loss(net: nn.Module) -> Tensor:
        adversarial = net(x_adv)
        s = refined(b, memory, eval_logits(net, b.x), adversarial)
        return ce(adversarial, 0.7 * s + 0.3 * b.hot).mean()

    return loss


def sglr_trades(net: nn.Module, b: Batch, memory: Memory) -> Loss:
    x_adv = trades_images(net, b)

    def loss(net: nn.Module) -> Tensor:
        clean, adversarial = net(b.x), net(x_adv)
        return (ce(clean, refined(b, memory, clean, adversarial)) + 6 * kl(clean, adversarial)).mean()

    return loss


def self_adaptive(net: nn.Module, b: Batch, memory: Memory) -> Loss:
    x_adv = trades_images(net, b)

    def loss(net: nn.Module) -> Tensor:
        clean, adversarial = net(b.x), net(x_adv)
        s = refined(b, memory, clean, adversarial, w=1.0)
        weights = s.amax(1) * N / s.amax(1).sum()
        return (weights * ce(clean, s)).mean() + 6 * kl(clean, adversarial).mean()

    return loss


def te_weight(b: Batch) -> float:
    """From epoch 2 on, counted from 1, up to epoch 4; at most 300."""
    e = math.floor(b.epoch) + 1
    return 0.0 if e < 2 else 300 * math.exp(-5 * (1 - (e - 2) / (4 - 2)) ** 2)


def ensembled(net: nn.Module, b: Batch, memory: Memory) -> Tensor:
    """The target after the update of the average, which starts at zero."""
    average = memory.get("soft labels", torch.zeros_like(b.hot))
    if b.epoch >= 1:
        average = 0.9 * average + 0.1 * log_p(eval_logits(net, b.x)).exp()
    memory["soft labels"] = average
    return average / average.sum(1, keepdim=True) if b.epoch >= 1 else average


def mse(logits: Tensor, t: Tensor) -> Tensor:
    """The squared differences, whose mean over everything the formula has."""
    return (log_p(logits).exp() - t).square().mean(1)


def te(net: nn.Module, b: Batch, memory: Memory) -> Loss:
    w, t = te_weight(b), ensembled(net, b, memory)
    start = (b.x + EPS * b.uniform()).clamp(0, 1)
    x_adv = climbed(net, b, start, 10, lambda z: ce(z, b.hot) + w * mse(z, t))

    def loss(net: nn.Module) -> Tensor:
        adversarial = net(x_adv)
        return (ce(adversarial, b.hot) + w * mse(adversarial, t)).mean()

    return loss


def te_trades(net: nn.Module, b: Batch, memory: Memory) -> Loss:
    w, t, clean = te_weight(b), ensembled(net, b, memory), eval_logits(net, b.x)
    start = b.inside(b.x + 0.001 * b.normal())
    x_adv = climbed(net, b, start, 10, lambda z: 6 * kl(clean, z) + w * mse(z, t))

    def loss(net: nn.Module) -> Tensor:
        clean, adversarial = net(b.x), net(x_adv)
        return (ce(clean, b.hot) + 6 * kl(clean, adversarial) + w * mse(clean, t)).mean()

    return loss


def half_cosine(first: float, last: float, b: Batch, epochs: float) -> float:
    progress = min(b.epoch / epochs, 1)
    return last + (first - last) * 0.5 * (1 + math.cos(math.pi * progress))


def rectified(net: nn.Module, b: Batch, memory: Memory) -> Tensor:
    """The label from a teacher that starts as the network; both schedules take two epochs."""
    memory |= {} if memory else {f"teacher.{name}": one.clone() for name, one in net.state_dict().items()}
    teacher = copy.deepcopy(net)
    teacher.load_state_dict({name.removeprefix("teacher."): one for name, one in memory.items()})
    p = log_p(eval_logits(teacher, b.x) / half_cosine(3.0, 2.0, b, 2)).exp()
    largest = half_cosine(0.6, 0.95, b, 2)
    share = [min(1.0, max(0.0, largest - float(row.max() - row[label]))) for row, label in zip(p, b.y, strict=True)]
    weight = torch.tensor(share, dtype=torch.float64)[:, None]
    return weight * p + (1 - weight) * b.hot


def teach(net: nn.Module, memory: Memory) -> None:
    """Move the teacher after an update."""
    for name, one in net.state_dict().items():
        was = memory[f"teacher.{name}"]
        memory[f"teacher.{name}"] = 0.7 * was + 0.3 * one if one.is_floating_point() else one.clone()


def adr(net: nn.Module, b: Batch, memory: Memory) -> Loss:
    q = rectified(net, b, memory)
    x_adv = climbed(net, b, (b.x + EPS * b.uniform()).clamp(0, 1), 10, lambda z: ce(z, q))
    return lambda net: ce(net(x_adv), q).mean()


def adr_trades(net: nn.Module, b: Batch, memory: Memory) -> Loss:
    q, x_adv = rectified(net, b, memory), trades_images(net, b)

    def loss(net: nn.Module) -> Tensor:
        clean, adversarial = net(b.x), net(x_adv)
        return (ce(clean, q) + 6 * kl(clean, adversarial)).mean()

    return loss


def moat(net: nn.Module, b: Batch, memory: Memory) -> Loss:
    """Single-step and multi-step examples in turn, an epoch each."""
    if math.floor(b.epoch) % 2 == 0:
        return fgsm_rs(net, b, memory)
    x_adv = pgd_images(net, b, steps=7)
    return lambda net: ce(net(x_adv), b.hot).mean()


def aft(net: nn.Module, b: Batch, memory: Memory) -> Loss:
    """At a quarter of the radius; an image stops at its first misclassified iterate, from epoch 2 on at its second."""
    eps, left = EPS / 4, torch.full((N,), 1 if b.epoch < 2 else 2)
    x_adv = (b.x + eps * b.uniform()).clamp(0, 1)
    for _ in range(10):
        left = left - (eval_logits(net, x_adv).argmax(1) != b.y).long()
        moved = b.inside(x_adv + 0.25 * eps * slope(net, x_adv, lambda z: ce(z, b.hot)).sign(), eps)
        x_adv = torch.where((left > 0).view(-1, 1, 1, 1), moved, x_adv)

    def loss(net: nn.Module) -> Tensor:
        net[1].momentum = 0.0  # the clean images alone move the running statistics
        adversarial = net(x_adv)
        net[1].momentum = 0.1
        net[1].num_batches_tracked -= 1
        clean, anchor = net(b.x), eval_logits(network(), b.x)  # of the network as it was at first
        return (0.3 * ce(clean, b.hot) + 0.7 * ce(adversarial, b.hot) + 0.5 * kl(anchor, clean)).mean()

    return loss


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """(n, m), of the rows of both."""
    return (a @ b.T) / (a.norm(dim=1)[:, None] * b.norm(dim=1)[None])


def told_apart(net: nn.Module, first: Tensor, second: Tensor, t: float) -> Tensor:
    """NT-Xent image by image: -log of the share that the other view has among all representations but one's own."""
    views = [net[:4](first), net[:4](second)]
    terms = []
    for mine, other in (views, views[::-1]):
        same, across = (cosines(mine, mine) / t).exp(), (cosines(mine, other) / t).exp()
        for i in range(N):
            everyone = same[i].sum() - same[i, i] + across[i].sum()
            terms.append(-(across[i, i] / everyone).log())
    return torch.stack(terms).mean() + 0 * net[4](views[0]).sum()  # weight decay alone acts on the last layer


def simclr(net: nn.Module, b: Batch, memory: Memory) -> Loss:
    return lambda net: told_apart(net, b.x, b.view, 0.3)


def ssl_at(net: nn.Module, b: Batch, memory: Memory) -> Loss:
    with torch.no_grad():
        clean = net.eval()[:4](b.x)
    point = b.inside(b.x + EPS * b.uniform())
    for _ in range(4):
        point.requires_grad_()
        (g,) = torch.autograd.grad((1 - cosines(net.eval()[:4](point), clean).diagonal()).sum(), point)
        point = b.inside(point.detach() + min(EPS, 2.5 * EPS / 4) * g.sign())
    return lambda net: told_apart(net, b.x, point, 0.5)


LATE = {"start_epoch": 1}
TAUGHT = {"temperature": 3.0, "end_temperature": 2.0, "interpolation": 0.6, "end_epoch": 2, "decay": 0.7}
CASES: dict[str, tuple[Callable[[nn.Module, Batch, Memory], Loss], dict[str, Any]]] = {
    "standard": (standard, {}),
    "pgd_at": (pgd_at, {}),
    "trades": (trades, {}),
    "mart": (mart, {}),
    "awp": (pgd_at, {}),
    "fgsm_rs": (fgsm_rs, {}),
    "n_fgsm": (n_fgsm, {}),
    "gradalign": (gradalign, {}),
    "free": (free, {}),
    "moat": (moat, {"stages": [[1, "single"], [1, "multi"]]}),
    "aft": (aft, {"mix": 0.7, "anchor": 0.5}),
    "sglr": (sglr, LATE),
    "sglr interp": (sglr_interp, {**LATE, "anchor": "interp", "interp": 0.7, "clean_bn_mode": "eval", "steps": 4}),
    "sglr trades": (sglr_trades, {**LATE, "base": "trades"}),
    "sglr self-adaptive": (self_adaptive, {**LATE, "base": "trades", "clean_share": 1, "weighted": True}),
    "te": (te, {**LATE, "end_epoch": 3}),
    "te trades": (te_trades, {**LATE, "end_epoch": 3, "base": "trades"}),
    "adr": (adr, TAUGHT),
    "adr trades": (adr_trades, {**TAUGHT, "base": "trades"}),
    "awp adr": (adr, {"method": "adr", **TAUGHT}),
    "simclr": (simclr, {"temperature": 0.3}),
    "ssl_at": (ssl_at, {"steps": 4}),
    "awp trades": (trades, {"method": "trades", "gamma": 0.005}),
}


def weights_moved_uphill(net: nn.Module, loss: Loss, gamma: float) -> dict[str, Tensor]:
    """By AWP; running statistics stay, as those of a proxy that is thrown away."""
    proxy = copy.deepcopy(net)
    loss(proxy.train()).backward()
    moves = {}
    for (name, weight), moved in zip(net.named_parameters(), proxy.parameters(), strict=True):
        if weight.dim() > 1:
            moves[name] = gamma * weight.detach().norm() * moved.grad / moved.grad.norm()
            weight.data += moves[name]
    return moves


def by_hand(case: str) -> tuple[list[float], dict[str, Tensor], Memory]:
    formula, params = CASES[case]
    net, memory, losses = network(), {}, []
    optimizer = torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9, weight_decay=1e-3)
    for number in range(3):
        loss = formula(net, Batch(number), memory)
        moves = weights_moved_uphill(net, loss, params.get("gamma", 0.01)) if case.startswith("awp") else {}
        optimizer.zero_grad()
        value = loss(net.train())
        value.backward()
        optimizer.step()
        for name, move in moves.items():
            net.get_parameter(name).data -= move
        if "adr" in case:
            teach(net, memory)
        losses.append(value.item())
    return losses, dict(net.state_dict()), memory


def by_the_method(case: str) -> tuple[list[float], dict[str, Tensor], Memory]:
    method = pick(METHODS, case.partition(" ")[0], "method", **CASES[case][1])
    assert isinstance(method, Method)
    net, losses = network(), []
    learner = Learner(net, torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9, weight_decay=1e-3), method)
    state = {name: one.double() for name, one in method.initial_state(IMAGES, CLASSES, (N, 1, 6, 6)).items()}
    method.begin(net, state, lambda: {"clean": 1.0})
    for number in range(3):
        batch = Batch(number)
        step = Step.of(batch.x, batch.y, ThreatModel("Linf", EPS), generator(2, number))
        step = replace(step, index=ROWS, batch_index=ROWS, number=number, epoch=batch.epoch, state=state, network=net)
        step.views = (batch.view,)
        losses.append(learner.update(step, LR).loss.item())
    return losses, dict(net.state_dict()), state


def test_every_method_has_a_reference() -> None:
    assert {case.partition(" ")[0] for case in CASES} == set(METHODS)


@pytest.mark.one_in(3)
@pytest.mark.parametrize("case", CASES)
def test_loss_update_and_memory_are_those_of_the_formula(case: str) -> None:
    """Some hundred operations a number in float64, each off by 1e-16: far below 1e-9."""
    (wanted, weights, memory), (losses, found, state) = by_hand(case), by_the_method(case)
    assert losses == pytest.approx(wanted, rel=1e-9)
    assert found.keys() == weights.keys()
    for name, one in weights.items():
        torch.testing.assert_close(found[name], one, rtol=1e-9, atol=1e-9, msg=name)
    assert set(memory) == {name for name in state if name in ("delta", "soft labels") or name.startswith("teacher.")}
    for name, one in memory.items():
        kept = state[name][ROWS] if name == "soft labels" else state[name]
        torch.testing.assert_close(kept, one, rtol=1e-9, atol=1e-9)
        others = torch.ones(IMAGES, dtype=torch.bool)
        others[ROWS] = False
        assert name != "soft labels" or not state[name][others].any()
    start = network().state_dict()
    assert max(float((start[name] - one).abs().max()) for name, one in found.items()) > 0.01
