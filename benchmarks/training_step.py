"""What an update of the trainer costs, beside the usual loop and beside the bare passes it is made of.

    python benchmarks/training_step.py [--network silu preact18 mlp] [--rounds 15] [--updates 2] [--batch 32]
        [--bf16] [--compile] [--device cpu]

PGD-10 training. Contenders start from the same weights and take turns on the same batches of digits, on one thread:
  usual  the network stays in training mode and the attack calls `loss.backward()`, so that each of its steps computes
         gradients of the weights, which are thrown away, and moves the running statistics; then the update;
  floor  ten input gradients of a frozen copy in eval mode by `torch.autograd.grad`, one full update in training mode,
         and nothing else: no start, no step, no projection, no change of modes;
  ours   `Learner.update` as the trainer calls it: on the network itself, as `speed.search_copy=false` has it; on a copy
         of it, the default; and with what else the settings `speed` offer: channels last, with --bf16 that in bfloat16
         for attack and update, and with --compile compiled networks, which start slowly.
A figure is the median over rounds of the ratio of CPU times, with its extremes; on a GPU of times on the clock, waited
for. The goals are for the two convolutional networks, the one for bfloat16 on hardware that computes in it; the first
line says whether this does, and where it does not --bf16 is slow. `mlp` on 8x8 pixels shows overhead alone.
"""

import argparse
import copy
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from networks import TRAINING, count, digits, preact18, race, ratio, silu
from torch import Tensor, nn
from torch.nn import functional

from satbench.data import load_images
from satbench.methods.base import Step
from satbench.methods.pgd_at import PGDAT
from satbench.models import ModelSpec, build_model
from satbench.models.search_copy import training_copy
from satbench.numerics.seeding import generator
from satbench.training.step import Learner

PGD_STEPS, STEP_SIZE, LR = 10, TRAINING.eps / 4, 0.01
GOAL_AGAINST_FLOOR = 1.05

Batches = list[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Ours:
    """The trainer with some of its settings `speed`; goal: times as fast as the usual loop."""

    precision: str = "float32"
    channels_last: bool = False
    compiled: bool = False
    copied: bool = False
    goal: float | None = None


OURS = {
    "ours": Ours(goal=1.25),
    "ours, channels last": Ours(channels_last=True),
    "ours, on a copy": Ours(copied=True, goal=1.7),
    "ours, on a copy, channels last": Ours(channels_last=True, copied=True),
    "ours, bf16, channels last": Ours("bf16", channels_last=True, goal=2.0),
    "ours, bf16, on a copy, channels last": Ours("bf16", channels_last=True, copied=True, goal=2.5),
    "ours, compiled": Ours(compiled=True),
    "ours, bf16, channels last, compiled": Ours("bf16", channels_last=True, compiled=True),
}


def mlp() -> nn.Module:
    """Two hidden layers of 256 SiLU."""
    return build_model(ModelSpec("mlp", "silu", 10, 1, 8, (0.3,), (0.38,)))


def small_digits(split: str, n: int) -> tuple[Tensor, Tensor]:
    images = load_images("digits", split)
    return images.x[:n], images.y[:n]


RACED: dict[str, tuple[Callable[[], nn.Module], Callable[[str, int], tuple[Tensor, Tensor]]]] = {
    "silu": (silu, digits),
    "preact18": (preact18, digits),
    "mlp": (mlp, small_digits),
}
JUDGED = ("silu", "preact18")  # by the goals


def sgd(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=LR, momentum=0.9, nesterov=True, weight_decay=5e-4)


def descend(net: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    optimizer.zero_grad()
    functional.cross_entropy(net(x), y).backward()
    optimizer.step()


def usual(net: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches) -> None:
    net.train()
    for x, y in batches:
        x_adv = (x + torch.empty_like(x).uniform_(-TRAINING.eps, TRAINING.eps)).clamp(0, 1)
        for _ in range(PGD_STEPS):
            x_adv.requires_grad_()
            optimizer.zero_grad()
            functional.cross_entropy(net(x_adv), y).backward()
            x_adv = x_adv.detach() + STEP_SIZE * x_adv.grad.sign()
            x_adv = x_adv.clamp(x - TRAINING.eps, x + TRAINING.eps).clamp(0, 1)
        descend(net, optimizer, x_adv, y)


def floor(net: nn.Module, frozen: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches) -> None:
    net.train()
    for x, y in batches:
        given = x.detach().requires_grad_()
        for _ in range(PGD_STEPS):
            torch.autograd.grad(functional.cross_entropy(frozen(given), y, reduction="sum"), given)
        descend(net, optimizer, x, y)


def ours(learner: Learner, batches: Batches) -> None:
    for number, (x, y) in enumerate(batches):
        learner.update(Step.of(x, y, TRAINING, generator(0, "attack", number, device=x.device)), LR)


def megabytes(net: nn.Module) -> float:
    """Memory of parameters and buffers, in MiB."""
    return sum(tensor.nbytes for tensor in (*net.parameters(), *net.buffers())) / 2**20


def passes(nets: list[nn.Module], run: Callable[[], object], n: int) -> str:
    seen = [count(net, run) for net in nets]
    return f"{sum(one.forward for one in seen) / n:.0f}/{sum(one.backward for one in seen) / n:.0f}"


def waited() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def one_race(name: str, forms: dict[str, Ours], batch: int, updates: int, rounds: int, device: str) -> None:
    build, images = RACED[name]
    x, y = (part.to(device) for part in images("train", batch * updates))
    batches = list(zip(x.split(batch), y.split(batch), strict=True))
    torch.manual_seed(0)
    start = build().to(device)
    nets = {who: [copy.deepcopy(start)] for who in ("usual", "floor", *forms)}
    nets["floor"].append(copy.deepcopy(start).eval().requires_grad_(False))
    contenders: dict[str, Callable[[], object]] = {
        "usual": partial(usual, *nets["usual"], sgd(nets["usual"][0]), batches),
        "floor": partial(floor, *nets["floor"], sgd(nets["floor"][0]), batches),
    }
    for who, form in forms.items():
        if form.channels_last:
            nets[who][0].to(memory_format=torch.channels_last)
        search = training_copy(nets[who][0], x[:16], form.precision) if form.copied else None
        learner = Learner(nets[who][0], sgd(nets[who][0]), PGDAT(PGD_STEPS), precision=form.precision, search=search)
        if search is not None:
            nets[who].append(search.module)
            print(f"\n{name}, {who}: {search.how}; {megabytes(search.module):.2f} MiB beside {megabytes(start):.2f}")
        contenders[who] = partial(ours, learner, batches)
    print(f"\n{name}, PGD-{PGD_STEPS}, {TRAINING}, batch {batch}; {rounds} rounds of {updates} updates")
    seen = [f"{who} {passes(nets[who], run, len(x))}" for who, run in contenders.items()]
    print(f"  passes a sample and update, forward/backward: {'; '.join(seen)}")
    for who, form in forms.items():
        if form.compiled:
            nets[who][0].compile()
    seconds = race(contenders, rounds, clock=time.process_time if device == "cpu" else waited)
    for who, form in forms.items():
        goal = f"; goal {form.goal}" if form.goal and name in JUDGED else ""
        print(f"  {who} against usual: {ratio(seconds['usual'], seconds[who])} times as fast{goal}")
    goal = f"; goal {GOAL_AGAINST_FLOOR}" if name in JUDGED else ""
    print(f"  ours against floor: {ratio(seconds['ours'], seconds['floor'])} times its time{goal}")


def machine(device: str) -> str:
    if device == "cpu":
        native, place = torch.ops.mkldnn._is_mkldnn_bf16_supported(), f"one thread of {platform.machine()}"
        place += f" {torch.backends.cpu.get_cpu_capability()}"
    else:
        native, place = torch.cuda.is_bf16_supported(including_emulation=False), torch.cuda.get_device_name(device)
    goal = "" if native else ", so that its goal has to be measured elsewhere"
    return f"torch {torch.__version__}, {place}, bfloat16 {'in hardware' if native else 'emulated'}{goal}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", nargs="+", choices=tuple(RACED), default=list(RACED))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--updates", type=int, default=2, help="of every contender in a round")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--bf16", action="store_true", help="also in bfloat16")
    parser.add_argument("--compile", action="store_true", help="also compiled networks; needs a C++ compiler")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    torch.set_num_threads(1)
    compiling = options.compile and any(map(shutil.which, ("c++", "g++", "clang++")))
    print(machine(options.device))
    if options.compile and not compiling:
        print("nothing is compiled: there is no C++ compiler")
    forms = {
        who: form
        for who, form in OURS.items()
        if (compiling or not form.compiled) and (options.bf16 or form.precision == "float32")
    }
    for name in options.network:
        one_race(name, forms, options.batch, options.updates, options.rounds, options.device)


if __name__ == "__main__":
    main()
