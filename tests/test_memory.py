"""Gradient accumulation and activation checkpointing: the gradients of the plain step, with less memory."""

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_training import contents, tiny, write_rows
from torch import Tensor, nn
from torch.nn import functional

from satbench import train
from satbench.core.errors import BadInput
from satbench.methods import METHODS, Method, Passes, Step
from satbench.models import ModelSpec, build_model, empty_model
from satbench.models.activation_checkpointing import blocks_of, recomputed
from satbench.models.search_copy import training_copy
from satbench.numerics.seeding import PerSample, Share, generator
from satbench.numerics.threat import ThreatModel
from satbench.training.dry_run import dry_run
from satbench.training.passes import PassCount
from satbench.training.step import Learner, targets

pytestmark = pytest.mark.numeric

N, CLASSES = 11, 3
THREAT = ThreatModel("Linf", 0.1)
EVERY: dict[str, dict[str, Any]] = {
    "standard": {},
    "pgd_at": {"steps": 3},
    "pgd_at early_stop": {"steps": 3, "early_stop": ((0, 1),)},
    "trades": {"steps": 3},
    "mart": {"steps": 3},
    "awp": {"steps": 3},
    "awp trades": {"method": "trades", "steps": 3},
    "fgsm_rs": {},
    "n_fgsm": {},
    "gradalign": {},
    "free": {"replays": 3},
    "moat": {"stages": ((1, "single"), (1, "multi")), "steps": 3},
    "aft": {"steps": 3, "mix": 0.5},
    "sglr": {"steps": 3, "start_epoch": 0},
    "sglr interp": {"steps": 3, "start_epoch": 1, "anchor": "interp", "clean_bn_mode": "eval"},
    "sglr trades": {"base": "trades", "steps": 3, "start_epoch": 0},
    "te": {"steps": 3, "start_epoch": 0, "end_epoch": 1},
    "te trades": {"base": "trades", "steps": 3, "start_epoch": 0, "end_epoch": 1},
    "adr": {"steps": 3, "end_epoch": 1, "decay": 0.7},
    "adr trades": {"base": "trades", "steps": 3, "decay": 0.7},
    "awp adr": {"method": "adr", "steps": 3, "decay": 0.7},
}
WITH_BLOCKS = {"model": "wide-resnet", "model.depth": 10, "model.width": 1}


def method_of(case: str) -> Method:
    return METHODS[case.partition(" ")[0]](**EVERY[case])


def smooth(width: int = 8) -> nn.Module:
    """Without batch norm, in float64."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, width, 3), nn.SiLU(), nn.Flatten(), nn.Linear(36 * width, CLASSES))
    return net.double()


def normed() -> nn.Module:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.SiLU(), nn.Flatten(), nn.Linear(144, CLASSES)).double()


def residual(architecture: str = "preact-resnet18", **params: int) -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelSpec(architecture, "silu", CLASSES, 1, 8, (0.5,), (0.3,), params))


def images(n: int = N, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    return torch.rand(n, 1, 8, 8, generator=generator(1), dtype=dtype), torch.arange(n) % CLASSES


def steps(net: nn.Module, method: Method, x: Tensor, y: Tensor, count: int = 3, **parts: Any) -> Iterator[Step]:
    """Updates of a network one after another with one memory."""
    state = {name: one.to(x.dtype) for name, one in method.initial_state(len(x), CLASSES, tuple(x.shape)).items()}
    method.begin(net, state, dict)
    for number in range(count):
        step = Step.of(x, y, THREAT, generator(0, number))
        yield replace(step, number=number, epoch=number / 2, state=state, network=net, **parts)


def updated(net: nn.Module, method: Method, x: Tensor, y: Tensor, settings: dict[str, Any], **parts: Any) -> list[Any]:
    """What three updates leave: the weights and buffers, the method's memory, and the figures of each update."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    learner, found = Learner(net, optimizer, method, **settings), []
    for step in steps(net, method, x, y, **parts):
        loss, accuracy, _ = learner.update(step, 0.1)
        found += [loss, None if accuracy is None else (accuracy * len(x)).round()]  # a count of images
    return [*net.state_dict().values(), *step.state.values(), *found]


def distance(one: list[Any], other: list[Any]) -> float:
    assert [value is None for value in one] == [value is None for value in other]
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True) if a is not None)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.npz")


# accumulation


def test_every_method_is_accumulated() -> None:
    assert {case.partition(" ")[0] for case in EVERY} == {name for name, make in METHODS.items() if make().separable}


@pytest.mark.one_in(5)
@pytest.mark.parametrize("case", EVERY)
@pytest.mark.parametrize("parts", [2, 5])
def test_without_batch_norm_parts_train_what_the_whole_batch_trains(case: str, parts: int) -> None:
    """11 images in parts of unequal size, in float64 up to rounding."""
    x, y = images()
    whole = updated(smooth(), method_of(case), x, y, {})
    cut = updated(smooth(), method_of(case), x, y, {}, accumulation=parts)
    assert distance(whole, cut) < 1e-12
    start = list(smooth().state_dict().values())
    assert distance(start, whole[: len(start)]) > 1e-3


@pytest.mark.parametrize(
    ("settings", "soft"), [({"clip": 0.05}, False), ({"attack_bn_mode": "train"}, False), ({}, True)]
)
def test_options_of_the_update_see_the_whole_batch(settings: dict[str, Any], soft: bool) -> None:
    x, y = images()
    wanted = {"targets": targets(y, CLASSES, 0.3, "others").double()} if soft else {}
    runs = [updated(smooth(), method_of("pgd_at"), x, y, settings, accumulation=parts, **wanted) for parts in (1, 4)]
    assert distance(*runs) < 1e-12
    plain = updated(smooth(), method_of("pgd_at"), x, y, {})
    assert (distance(runs[0], plain) > 1e-3) is (settings != {"attack_bn_mode": "train"})


def test_batch_norm_learns_from_each_part_and_its_running_statistics_are_the_mean() -> None:
    """By hand: the gradient is the mean of the parts', each normalised alone; so are the statistics moved once."""
    x, y = images()
    net, by_hand = normed(), normed().train()
    step = next(steps(smooth(), method_of("standard"), x, y, accumulation=2))
    Learner(net, torch.optim.SGD(net.parameters(), lr=0.5), method_of("standard")).update(step, 0.5)
    before = copy.deepcopy(by_hand.state_dict())
    loss, mean, variance = 0.0, 0.0, 0.0
    for rows in (slice(0, 6), slice(6, 11)):
        share = len(x[rows]) / N
        loss = loss + share * functional.cross_entropy(by_hand(x[rows]), y[rows])
        maps = by_hand[0](x[rows]).detach()
        mean = mean + share * 0.1 * maps.mean((0, 2, 3))
        variance = variance + share * (0.9 + 0.1 * maps.transpose(0, 1).flatten(1).var(1))
    gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
    for (name, found), gradient in zip(net.named_parameters(), gradients, strict=True):
        torch.testing.assert_close(found.detach(), before[name] - 0.5 * gradient, rtol=0, atol=1e-12)
    torch.testing.assert_close(net[1].running_mean, mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(net[1].running_var, variance, rtol=0, atol=1e-12)
    assert net[1].num_batches_tracked == 1


@pytest.mark.parametrize(("n", "sizes"), [(11, [3, 3, 3, 2]), (5, [3, 2]), (3, [3]), (1, [1])])
def test_a_small_batch_has_fewer_parts_of_at_least_two_images(n: int, sizes: list[int]) -> None:
    x, y = images(n)
    step = Step.of(x, y, THREAT, generator(0))
    parts = list(replace(step, accumulation=4).split(x))
    assert [len(part.x) for part, _ in parts] == sizes
    assert torch.equal(torch.cat([rows for _, rows in parts]), x)
    assert torch.equal(torch.cat([part.index for part, _ in parts]), step.index)
    assert all(torch.equal(part.batch_index, step.index) for part, _ in parts)
    whole, cut = (updated(smooth(), method_of("n_fgsm"), x, y, {}, accumulation=count) for count in (1, 4))
    assert distance(whole, cut) < 1e-12


def drawn(step: Step) -> Tensor:
    """Two random starts of every image, one after the other."""
    return torch.stack([step.threat.random_start(step.x, step.randomness) for _ in range(2)], 1)


@pytest.mark.parametrize(
    "randomness",
    [generator(3), Share(generator(3), 20, 5), PerSample.of(3, [str(i) for i in range(N)])],
    ids=["generator", "share", "per sample"],
)
def test_a_part_draws_what_its_images_draw_in_the_whole_batch(randomness: Any) -> None:
    x, y = images()
    cut, whole = (replace(Step.of(x, y, THREAT, copy.deepcopy(randomness)), accumulation=parts) for parts in (3, 1))
    parts, together = ([drawn(part) for part, _ in step.split(x)] for step in (cut, whole))
    assert [len(part) for part in parts] == [4, 4, 3]
    assert torch.equal(torch.cat(parts), together[0])


@pytest.mark.parametrize(
    ("changes", "hint"),
    [
        ({"accumulation": 9}, "16 images .* fewer than two; give at most 8"),
        ({"accumulation": 40, "batch_size": 1000}, "72 images .* give at most 36"),
        ({"accumulation": 0}, "accumulation"),
        ({"accumulation": 2, "sync_batch_norm": True}, "sync_batch_norm with accumulation"),
        ({"speed.activation_checkpointing": True}, "has none; leave it out, or set accumulation"),
        ({**WITH_BLOCKS, "speed.activation_checkpointing": True, "speed.compile": True}, "speed.compile"),
        ({**WITH_BLOCKS, "speed.activation_checkpointing": True, "method": "gradalign"}, "in two modes"),
        ({**WITH_BLOCKS, "speed.activation_checkpointing": True, "method": "aft"}, "in two modes"),
    ],
)
def test_what_is_undefined_is_refused_before_anything_is_written(
    changes: dict[str, Any], hint: str, dataset: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=hint):
        train(tiny(dataset, **changes), tmp_path / "run", "cpu")
    assert not (tmp_path / "run").exists()


def test_the_log_of_an_accumulated_run_is_that_of_the_whole_batch(dataset: str, tmp_path: Path) -> None:
    """Without batch norm: loss, training accuracy, passes and validation, with a last batch of 8 images in 2 x 4."""
    logs = []
    for parts in (1, 4):
        config = tiny(dataset, **{"model": "mlp", "model.width": 16, "accumulation": parts})
        train(config, tmp_path / str(parts), "cpu")
        logs.append(json.loads((tmp_path / str(parts) / "metrics.jsonl").read_text().splitlines()[-1]))
    assert logs[0].pop("train_loss") == pytest.approx(logs[1].pop("train_loss"), abs=1e-5)
    assert logs[0] == logs[1]
    assert 0 < logs[0]["train_accuracy"] < 1


# activation checkpointing

CHECKPOINTED = [case for case in EVERY if not method_of(case).two_modes]


@pytest.mark.one_in(20)
@pytest.mark.parametrize("case", CHECKPOINTED)
def test_recomputed_activations_give_the_same_bits(case: str) -> None:
    """Weights, running statistics with their counts, and the figures of three updates."""
    x, y = images(dtype=torch.float32)
    plain, other = (
        updated(residual(width=4), method_of(case), x, y, {"activation_checkpointing": on}) for on in (False, True)
    )
    assert all(a is b or torch.equal(a, b) for a, b in zip(plain, other, strict=True))


@pytest.mark.left_out
@pytest.mark.parametrize(
    ("architecture", "case", "settings"),
    [
        ("efficientnet-b0", "standard", {}),  # dropout and stochastic depth
        ("preact-resnet18", "pgd_at", {"precision": "bf16"}),
        ("preact-resnet18", "pgd_at", {"attack_bn_mode": "train"}),
    ],
)
def test_recomputed_activations_follow_the_settings(architecture: str, case: str, settings: dict[str, Any]) -> None:
    x, y = images(dtype=torch.float32)
    params = {"width": 4} if architecture == "preact-resnet18" else {}
    plain, other = (
        updated(residual(architecture, **params), method_of(case), x, y, {**settings, **more}, accumulation=2)
        for more in ({}, {"activation_checkpointing": True})
    )
    assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))


@pytest.mark.parametrize(
    ("architecture", "blocks"),
    [
        ("preact-resnet18", 8),
        ("wide-resnet", 15),
        ("resnet18-cifar", 8),
        ("resnet50", 16),
        ("efficientnet-b0", 16),
        ("timm:convnext_atto", 12),  # its stages are chains of blocks themselves
        ("timm:vit_tiny_patch16_224", 12),
    ],
)
def test_blocks_are_found_in_the_networks_of_the_registry_and_of_timm(architecture: str, blocks: int) -> None:
    if architecture.startswith("timm:"):
        pytest.importorskip("timm")
    side = 224 if architecture.startswith("timm:") else 32
    with torch.random.fork_rng():
        found = blocks_of(empty_model(ModelSpec(architecture, "silu", CLASSES, 3, side, (0.5,) * 3, (0.3,) * 3)))
    assert len(found) == blocks
    assert len({id(part) for block in found for part in block.modules()}) == sum(
        len(list(block.modules())) for block in found
    )  # none within another


def test_a_network_of_single_layers_has_no_blocks() -> None:
    with pytest.raises(BadInput, match="has none"):
        blocks_of(smooth())


def test_nothing_is_left_on_the_network() -> None:
    net = residual(width=4)
    names, own = list(net.state_dict()), blocks_of(net)[0].forward
    with recomputed(blocks_of(net)):
        assert list(net.state_dict()) == names
        assert blocks_of(net)[0].forward != own
        with pytest.raises(BadInput, match="expected floats"), recomputed(blocks_of(net)):
            net(torch.zeros(2))
    assert not any("forward" in vars(module) for module in net.modules())


class Unlike(nn.Module):
    """Whose pass reads a buffer that it also moves, as spectral norm does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
        self.register_buffer("scale", torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.other(self.layer(x * self.scale.clone()).sigmoid())
        self.scale *= 0.5
        return out


def eval_after(net: nn.Module) -> None:
    net.eval()


def nothing(net: nn.Module) -> None:
    pass


@pytest.mark.parametrize(
    ("block", "between"),
    [(Unlike, nothing), (lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.1), eval_after)],
    ids=["a buffer that moves", "another mode"],
)
def test_a_block_that_has_changed_is_never_recomputed(
    block: Callable[[], nn.Module], between: Callable[[nn.Module], None]
) -> None:
    net = nn.Sequential(block(), block())
    with recomputed(blocks_of(net)):
        loss = net(torch.rand(3, 4, requires_grad=True)).sum()
        between(net)
        with pytest.raises(BadInput, match="have changed since its forward pass; leave it out"):
            loss.backward()


def test_recomputed_rows_are_no_passes_of_the_method() -> None:
    x, y = images(dtype=torch.float32)
    net, passes = residual(width=4), PassCount()
    with passes.watching(net):
        updated(net, method_of("pgd_at"), x, y, {"activation_checkpointing": True}, accumulation=3)
    assert method_of("pgd_at").passes == Passes(passes.forward // (3 * N), passes.backward // (3 * N))


def test_a_checkpointed_run_is_the_plain_run_to_the_byte(dataset: str, tmp_path: Path) -> None:
    for on in (False, True):
        config = tiny(dataset, **WITH_BLOCKS, **{"speed.activation_checkpointing": on, "averaging": "ema"})
        train(config, tmp_path / str(on), "cpu")
    plain, other = (contents(tmp_path / str(on)) for on in (False, True))
    assert plain.pop("config.json") != other.pop("config.json")
    assert plain == other
    assert len(load_file(tmp_path / "True" / "best.safetensors")) == 48


def test_checkpointing_makes_no_other_training_and_accumulation_does() -> None:
    start = tiny("digits")
    for change in ({"speed.activation_checkpointing": True}, {"speed.resident": False}):
        changed = start.with_values(change)
        assert changed != start
        assert (changed.digest("a"), changed.recipe) == (start.digest("a"), start.recipe)
    changed = start.with_values({"accumulation": 2})
    assert changed.digest("a") != start.digest("a")
    assert changed.recipe == "tiny [accumulation=2]"


@pytest.mark.left_out
def test_a_checkpointed_run_stopped_anywhere_ends_with_the_same_bits(dataset: str, tmp_path: Path) -> None:
    class PowerCut(Exception):
        pass

    def cut(done: int, total: int, what: str) -> None:
        if done in (3, 6):
            raise PowerCut

    changes = {**WITH_BLOCKS, "speed.activation_checkpointing": True, "accumulation": 2}
    config = tiny(dataset, **changes)
    train(config, tmp_path / "whole", "cpu")
    with pytest.raises(PowerCut):
        train(config, tmp_path / "run", "cpu", progress=cut, save_seconds=0)
    train(config, tmp_path / "run", "cpu")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")


# memory


@contextmanager
def held(net: nn.Module) -> Iterator[list[int]]:
    """The most bytes of activations that graphs held for the backward pass, without those of a block recomputed."""
    own = {one.untyped_storage().data_ptr() for one in [*net.parameters(), *net.buffers()]}
    alive: dict[int, list[int]] = {}
    most = [0]

    class Saved:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor, self.key = tensor, tensor.untyped_storage().data_ptr()
            entry = alive.setdefault(self.key, [0, tensor.untyped_storage().nbytes()])
            entry[0] += 1
            most[0] = max(most[0], sum(size for key, (_, size) in alive.items() if key not in own))

        def __del__(self) -> None:
            alive[self.key][0] -= 1
            if not alive[self.key][0]:
                del alive[self.key]

    with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.tensor):
        yield most


@pytest.mark.left_out
def test_both_hold_fewer_saved_activations() -> None:
    """Four parts hold a quarter of the activations; blocks that keep their inputs less than half, also of a copy."""
    x, y = images(16, torch.float32)
    found = {}
    for name, settings, parts in (
        ("plain", {}, 1),
        ("accumulated", {}, 4),
        ("checkpointed", {"activation_checkpointing": True}, 1),
        ("on a copy", {"activation_checkpointing": True}, 1),
    ):
        net = residual(width=4)
        copy = training_copy(net, x) if name == "on a copy" else None
        with held(nn.ModuleList([net, *([copy.module] if copy else [])])) as most:
            updated(net, method_of("pgd_at"), x, y, {**settings, "search": copy}, accumulation=parts)
        found[name] = most[0]
    assert found["plain"] > 16 * 8 * 8 * 8 * 4 * 4  # of the first four blocks alone, images x pixels x filters x bytes
    assert found["accumulated"] < 0.3 * found["plain"]
    assert found["checkpointed"] < 0.5 * found["plain"]
    assert found["on a copy"] < 0.5 * found["plain"]


def test_a_dry_run_takes_its_updates_with_both(dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    plain = Learner._gradients
    monkeypatch.setattr(
        Learner,
        "_gradients",
        lambda self, x_adv, step: (
            seen.append((len(list(step.split(x_adv))), len(self.blocks))),
            plain(self, x_adv, step),
        )[1],
    )
    changes = {**WITH_BLOCKS, "speed.activation_checkpointing": True, "accumulation": 2}
    found = dry_run(tiny(dataset, **changes), "cpu")
    assert seen == [(2, 3)] * 5
    assert found.stages[0].passes == Passes(3, 3)
