"""Counts the passes that an attack makes through a network, image by image."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from satbench.numerics.threat import ORDERS, ThreatModel

PIXELS = 256  # of an image, evenly spaced, by which a row is recognised


class Counted:
    """A network that counts the passes of every watched image, and when each was first misclassified.

    A row of a call belongs to the watched image whose pixels are nearest, where that is certain: it is inside the
    threat's ball, or less than half as far away as any other image; or to the one image whose Linf ball it is in, where
    another one is nearer in L2. Where it is not certain, as for shifted or scaled
    copies, the rows are those of the call before, if there are as many and the certain ones agree. Otherwise, and for
    resized images and calls under `torch.func`, the passes of the call are spread evenly over all images, and
    `estimated` is set.

    `watched` is the network as an attack gets it. `at_once` is the largest number of images in one pass: more are
    split, and their gradient is computed piece by piece. `bad_gradient`, bool (N,), marks the images that had a
    gradient with NaN or infinite entries. `shown`, if set, is called with the rows of every recognised pass and the
    positions of their images.
    """

    clean: Tensor
    y: Tensor
    forwards: Tensor
    backwards: Tensor
    fell_at: Tensor
    bad_gradient: Tensor
    shown: Callable[[Tensor, Tensor], None] | None = None

    def __init__(self, model: nn.Module, at_once: int) -> None:
        self.model = model
        self.watched = _watched(self)
        self.at_once = at_once
        self.threat: ThreatModel | None = None
        self.inside = False  # during a pass through the whole network

    def watch(self, x: Tensor, y: Tensor, threat: ThreatModel) -> None:
        """Count from zero for these images (N, C, H, W) with labels (N,)."""
        self.clean, self.y, self.threat = x, y, threat
        self.is_linf = threat.norm == "Linf"
        self.size = math.prod(x.shape[1:])
        self.step = max(1, self.size // PIXELS)
        self.signature = self._pixels(x)
        self.half_squares = self.signature.square().sum(1) / 2
        self.reach = threat.eps * 1.001 + 1e-6  # of a row that is surely in the ball around its image
        self.forwards, self.backwards = (torch.zeros(len(x), dtype=torch.int64, device=x.device) for _ in range(2))
        self.fell_at = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
        self.bad_gradient = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self._expect(torch.arange(len(x), device=x.device))
        self.spread = _Passes()  # of rows that belong to no image for certain
        self.bypassing: dict[nn.Module, _Passes] = {}  # of parts that were called on their own

    @property
    def estimated(self) -> bool:
        """Whether some of the counts are uniform estimates."""
        return bool(self.spread.forward or self.bypassing)

    def __call__(self, x: Tensor) -> Tensor:
        if self.threat is None or not len(x):
            return self._logits(x)
        plain = x.detach() if x.requires_grad else x
        rows, inside = self._recognise(plain)
        if rows is None:
            logits = self._logits(x)
            self.spread.count(x, logits, _images_in(x, self.clean.ndim))
            return logits
        if plain is not x and torch.is_grad_enabled():
            x = x.view_as(x)  # a leaf that is passed again would keep the hooks of all passes
            x.register_hook(lambda grad: self._count_backward(rows, grad))  # type: ignore[no-untyped-call]
            logits = self._logits(x)
        else:
            logits = self._logits(x)
            if logits.requires_grad:
                logits.register_hook(lambda _: self._count_backward(rows))  # type: ignore[no-untyped-call]
        self.calls += 1
        if inside is None or inside.any():
            self._notice(plain, logits, inside)
        if self.shown is not None:
            self.shown(plain, rows)
        return logits

    def counts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Forward passes, backward passes, and the forward pass at which each image fell (-1: never); int64 (N,).

        Passes through parts of the network count as many as its part with the most passes has.
        """
        self._flush()
        forward, backward = self._estimates()
        return self.forwards + forward, self.backwards + backward, self.fell_at

    @contextmanager
    def inner_passes(self) -> Iterator[None]:
        """Also count calls of the network's children that are not part of a pass through the whole network."""

        def count(child: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            if not self.inside and given and isinstance(given[0], Tensor):
                passes = self.bypassing.setdefault(child, _Passes())
                passes.count(given[0], output, _images_in(given[0], given[0].ndim))

        children = [child for child in self.model.children() if not isinstance(child, torch.jit.ScriptModule)]
        hooks = [child.register_forward_hook(count) for child in children]  # a scripted module takes none
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def passed(self, rows: Tensor) -> Tensor:
        """Forward passes so far of the images at `rows`, all of which were in the last pass; int64 like `rows`."""
        return self.forwards[rows] + self.calls + self._estimates()[0]

    def _logits(self, x: Tensor) -> Tensor:
        if len(x) <= self.at_once or x.ndim != 4 or _under_transform(x):
            return self._whole(x)
        if not (x.requires_grad and torch.is_grad_enabled()):
            return torch.cat([self._whole(part) for part in torch.split(x, self.at_once)])
        return torch.cat([checkpoint(self._whole, part, use_reentrant=False) for part in torch.split(x, self.at_once)])

    def _whole(self, x: Tensor) -> Tensor:
        self.inside = True
        try:
            logits: Tensor = self.model(x)
            return logits
        finally:
            self.inside = False

    def _pixels(self, x: Tensor) -> Tensor:
        size, step = self.size, self.step
        if x.is_contiguous():
            return x.as_strided((len(x), -(-size // step)), (size, step)).float()  # one operation, not three
        return x.flatten(1)[:, ::step].float()

    def _recognise(self, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Which watched image each row is of, int64 (M,), or None where that is not known.

        And which rows may be in the ball around their image, bool (M,), or None for all of them.
        """
        if _under_transform(x) or x.shape[1:] != self.clean.shape[1:]:
            return None, None
        pixels = self._pixels(x)
        if len(pixels) == len(self.rows):
            moved = pixels - self.expected
            if self.is_linf:
                low, high = moved.aminmax()
                is_near = high.item() <= self.reach and low.item() >= -self.reach
            else:
                is_near = self._lengths(moved).max().item() <= self.reach
            if is_near:
                return self.rows, None
            inside = self._lengths(moved) <= self.reach
            others = (self._nearest(pixels) != self.rows).nonzero()[:, 0]
            if not len(others):
                return self.rows, inside
            found, _, certain = self._compared(pixels[others])
            if not (certain & (found != self.rows[others])).any():
                return self.rows, inside
        rows, inside, certain = self._compared(pixels)
        if not certain.all():
            same = len(rows) == len(self.rows) and torch.equal(rows[certain], self.rows[certain])
            return (self.rows, None) if same else (None, None)
        self._flush()
        self._expect(rows)
        return rows, inside

    def _compared(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The image nearest to each row, int64 (M,); whether the row may be in its ball, and whether it is certain."""
        gaps, images = torch.cdist(pixels, self.signature).topk(min(2, len(self.signature)), largest=False)
        rows = images[:, 0]
        inside = self._lengths(pixels - self.signature[rows]) <= self.reach
        certain = inside | (gaps[:, 0] < gaps[:, -1] / 2) | (len(self.signature) == 1)
        elsewhere = (~inside).nonzero()[:, 0]
        if len(elsewhere) and self.is_linf:  # where the nearest image in L2 may be another one
            near = torch.cdist(pixels[elsewhere], self.signature, p=math.inf) <= self.reach
            alone = near.sum(1) == 1
            found = elsewhere[alone]
            rows[found], inside[found], certain[found] = near[alone].int().argmax(1), True, True
        return rows, inside, certain

    def _expect(self, rows: Tensor) -> None:
        """Take the coming calls to be of these images, int64 (M,)."""
        self.rows, self.expected, self.labels = rows, self.signature[rows], self.y[rows]
        self.calls = self.returns = 0  # forward and backward passes of these rows, not yet in `forwards`, `backwards`

    def _nearest(self, pixels: Tensor) -> Tensor:
        """The watched image nearest to each row, int64 (M,): of least |s|^2 / 2 - <p, s>."""
        return torch.addmm(self.half_squares, pixels, self.signature.T, alpha=-1).argmin(1)

    def _lengths(self, moved: Tensor) -> Tensor:
        """The norms of the rows of `moved` (M, D), which may be overwritten."""
        assert self.threat is not None
        if self.threat.norm == "Linf":
            return moved.abs_().amax(1)  # ten times as fast as the norm
        return torch.linalg.vector_norm(moved, ord=ORDERS[self.threat.norm], dim=1)  # type: ignore[no-any-return]

    def _flush(self) -> None:
        self.forwards.index_add_(0, self.rows, torch.full_like(self.rows, self.calls))
        self.backwards.index_add_(0, self.rows, torch.full_like(self.rows, self.returns))
        self.calls = self.returns = 0

    def _count_backward(self, rows: Tensor, grad: Tensor | None = None) -> None:
        """Count a backward pass of these rows, and look at its gradient to the images where it has one."""
        if rows is self.rows:
            self.returns += 1
        else:
            self.backwards.index_add_(0, rows, torch.ones_like(rows))
        if grad is not None and not math.isfinite(grad.sum().item()):  # which may also overflow
            self.bad_gradient[rows[~grad.isfinite().flatten(1).all(1)]] = True

    def _estimates(self) -> tuple[int, int]:
        """Forward and backward passes of each image beside those of recognised rows, rounded up."""
        inner = self.bypassing.values()
        forward = self.spread.forward + max((part.forward for part in inner), default=0)
        backward = self.spread.backward + max((part.backward for part in inner), default=0)
        return -(-forward // len(self.clean)), -(-backward // len(self.clean))

    def _notice(self, x: Tensor, logits: Tensor, inside: Tensor | None) -> None:
        """Note which present rows are misclassified for the first time; only those `inside` can be in the ball."""
        predictions = logits.argmax(1)
        if torch.equal(predictions, self.labels):
            return
        erring = predictions != self.labels
        if inside is not None:
            erring &= inside
        assert self.threat is not None
        where = erring.nonzero()[:, 0]
        where = where[self.fell_at[self.rows[where]] < 0]
        if len(where):
            where = where[self.threat.contains(self.clean[self.rows[where]], x[where])]
            self.fell_at[self.rows[where]] = self.passed(self.rows[where])


class _Passes:
    """Numbers of rows that went forward and backward, whichever images they belong to."""

    def __init__(self) -> None:
        self.forward = self.backward = 0

    def count(self, given: Tensor, output: Any, rows: int) -> None:
        """Count a call on `rows` rows and, when it comes, its backward pass.

        Hooks do not run under torch.func, so there a pass that is differentiated is taken to have one backward pass.
        """
        self.forward += rows
        if _under_transform(given):
            self.backward += rows if _is_differentiated(given) else 0
        elif isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(lambda _: self._count_backward(rows))  # type: ignore[no-untyped-call]

    def _count_backward(self, rows: int) -> None:
        self.backward += rows


def _watched(counted: Counted) -> nn.Module:
    """The counted model in everything but that a call of it is counted.

    Its class is a subclass of the model's and its attributes are the model's own, so that an attack finds the children,
    methods and hooks of the user's network. Copies and slices made of it are plain networks, whose passes do not count.
    """
    kind = type(counted.model)

    class Watched(kind):  # type: ignore[misc,valid-type]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            if self is watched and len(args) == 1 and not kwargs:
                return counted(args[0])
            return super().__call__(*args, **kwargs)

    Watched.__name__, Watched.__qualname__, Watched.__module__ = kind.__name__, kind.__qualname__, kind.__module__
    watched: nn.Module = object.__new__(Watched)
    object.__setattr__(watched, "__dict__", counted.model.__dict__)
    return watched


def _under_transform(x: Tensor) -> bool:
    """Whether `x` stands for other tensors inside `torch.func.grad`, `vmap` or the like, and cannot be looked into."""
    return torch._C._functorch.is_functorch_wrapped_tensor(x)


def _is_differentiated(x: Tensor) -> bool:
    while _under_transform(x):
        if torch._C._functorch.is_gradtrackingtensor(x):
            return True
        x = torch._C._functorch.get_unwrapped(x)
    return False


def _images_in(x: Tensor, ndim: int) -> int:
    """How many images a tensor holds whose batches have `ndim` axes, those that `vmap` stacks included."""
    size = math.prod(x.shape[1:] if x.ndim >= ndim else x.shape)
    while _under_transform(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x.numel() // max(size, 1)
