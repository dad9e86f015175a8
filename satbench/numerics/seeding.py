"""One integer seed gives every random number of a run.

Training draws from one generator a step, made from (seed, purpose, step), so that a resumed run needs no saved
generator; processes that share a batch draw for all of it and take their rows. Evaluation draws from one generator a
sample, made from (seed, sample id), so that a sample's start point does not depend on the batch it came in.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


def derive(seed: int, *purpose: object) -> int:
    """A 63-bit seed that depends on every part of `purpose` and on nothing else."""
    text = repr((seed, *(str(part) for part in purpose)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *purpose: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one purpose of a run; its numbers depend on the kind of device it lives on."""
    return torch.Generator(device).manual_seed(derive(seed, *purpose))


@dataclass(frozen=True)
class PerSample:
    """One generator a sample; row i of every draw comes from generator i alone."""

    generators: tuple[torch.Generator, ...]

    @classmethod
    def of(cls, seed: int, sample_ids: Sequence[str], *purpose: object) -> "PerSample":
        return cls(tuple(generator(seed, *purpose, sample_id) for sample_id in sample_ids))

    def rows(self, index: Tensor) -> "PerSample":
        """The streams of the samples at `index` (int64, any device)."""
        return PerSample(tuple(self.generators[i] for i in index.tolist()))


@dataclass(frozen=True)
class Share:
    """A generator of a batch of `total` samples, of which only those from `start` on are here."""

    generator: torch.Generator
    total: int
    start: int


Randomness = torch.Generator | PerSample | Share


def uniform(like: Tensor, randomness: Randomness) -> Tensor:
    """Numbers in [0, 1) of the shape, dtype and device of `like`; drawn where the generator is."""
    return _draw(torch.rand, like, randomness)


def normal(like: Tensor, randomness: Randomness) -> Tensor:
    """Standard normal numbers of the shape, dtype and device of `like`; drawn where the generator is."""
    return _draw(torch.randn, like, randomness)


def integer(randomness: Randomness) -> int:
    """A non-negative 31-bit integer, for libraries that want a seed."""
    if isinstance(randomness, Share):
        randomness = randomness.generator
    first = randomness.generators[0] if isinstance(randomness, PerSample) else randomness
    return int(torch.randint(2**31 - 1, (), generator=first, device=first.device))


def rows(randomness: Randomness, index: Tensor) -> Randomness:
    """The randomness of the samples at `index`: their own streams, or the shared one."""
    return randomness.rows(index) if isinstance(randomness, PerSample) else randomness


def part(randomness: Randomness, start: int, count: int, total: int) -> Randomness:
    """The randomness of `count` of the `total` samples here, from `start` on: what they draw among all of them.

    The parts of one batch draw independently of each other's order, since each has a generator of its own.
    """
    if isinstance(randomness, PerSample):
        return PerSample(randomness.generators[start : start + count])
    share = randomness if isinstance(randomness, Share) else Share(randomness, total, 0)
    own = torch.Generator(share.generator.device)
    own.set_state(share.generator.get_state())
    return Share(own, share.total, share.start + start)


def _draw(draw: Callable[..., Tensor], like: Tensor, randomness: Randomness) -> Tensor:
    if isinstance(randomness, PerSample):
        parts = [draw(like.shape[1:], generator=one, dtype=like.dtype) for one in randomness.generators]
        return torch.stack(parts).to(like.device) if parts else torch.empty_like(like)
    if isinstance(randomness, Share):
        end = randomness.start + len(like)
        return _numbers(draw, (randomness.total, *like.shape[1:]), like, randomness.generator)[randomness.start : end]
    return _numbers(draw, tuple(like.shape), like, randomness)


def _numbers(draw: Callable[..., Tensor], shape: tuple[int, ...], like: Tensor, generator: torch.Generator) -> Tensor:
    return draw(shape, generator=generator, dtype=like.dtype, device=generator.device).to(like.device)
