"""What an attack really asked of a network, image by image."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from satbench.threat import ThreatModel, distance

PIXELS = 256  # of an image, evenly spaced, by which a row is recognised


class Counted(nn.Module):
    """A network that counts the passes of every watched image, and notices where it first erred on it.

    A row given to `forward` belongs to the watched image that is nearest in some of its pixels. Rows are looked up when
    their number differs from the call before, or when one is farther from its image than the threat allows. `at_once`
    bounds how many rows go through the network together: more are cut, and their gradient is computed piece by piece.

    bad_gradient: which images had a gradient with NaN or infinite entries, bool (N,). shown: if set, is called with the
    rows of every forward pass and the positions of their images.
    """

    clean: Tensor
    y: Tensor
    forwards: Tensor
    backwards: Tensor
    fell_at: Tensor
    bad_gradient: Tensor
    shown: Callable[[Tensor, Tensor], None] | None = None

    def __init__(self, model: nn.Module, at_once: int) -> None:
        super().__init__()
        self.model = model
        self.at_once = at_once
        self.threat: ThreatModel | None = None

    def watch(self, x: Tensor, y: Tensor, threat: ThreatModel) -> None:
        """Count from zero for these images (N, C, H, W) with labels (N,)."""
        self.clean, self.y, self.threat = x, y, threat
        self.signature = self._pixels(x)
        self.forwards, self.backwards = (torch.zeros(len(x), dtype=torch.int64, device=x.device) for _ in range(2))
        self.fell_at = torch.full((len(x),), -1, dtype=torch.int64, device=x.device)
        self.bad_gradient = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.rows = torch.arange(len(x), device=x.device)
        self.calls = 0  # with the present rows, not yet in `forwards`

    def forward(self, x: Tensor) -> Tensor:
        if self.threat is None:
            return self._logits(x)
        rows = self._recognise(self._pixels(x))
        logits = self._logits(self._checked(x, rows))
        self.calls += 1
        if logits.requires_grad:
            logits.register_hook(lambda _: self._count_backward(rows))  # type: ignore[no-untyped-call]
        self._notice(x.detach(), logits.detach(), rows)
        if self.shown is not None:
            self.shown(x.detach(), rows)
        return logits

    def counts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Forward passes, backward passes, and the forward pass at which each image fell (-1: never); int64 (N,)."""
        self._flush()
        return self.forwards, self.backwards, self.fell_at

    def passed(self, rows: Tensor) -> Tensor:
        """Forward passes so far of the images at `rows`, all of which were in the last pass; int64 like `rows`."""
        return self.forwards[rows] + self.calls

    def _logits(self, x: Tensor) -> Tensor:
        if len(x) <= self.at_once:
            logits: Tensor = self.model(x)
            return logits
        if not (x.requires_grad and torch.is_grad_enabled()):
            return torch.cat([self.model(part) for part in torch.split(x, self.at_once)])
        return torch.cat([checkpoint(self.model, part, use_reentrant=False) for part in torch.split(x, self.at_once)])

    def _pixels(self, x: Tensor) -> Tensor:
        flat = x.detach().flatten(1)
        return flat[:, :: max(1, flat.shape[1] // PIXELS)].float()

    def _recognise(self, pixels: Tensor) -> Tensor:
        """Which watched image each row is of, int64 (M,)."""
        assert self.threat is not None
        if len(pixels) == len(self.rows):
            moved = distance(self.threat.norm, self.signature[self.rows], pixels)
            if bool((moved <= self.threat.eps * 1.001 + 1e-6).all()):
                return self.rows
        self._flush()
        self.rows = torch.cdist(pixels, self.signature).argmin(1)
        return self.rows

    def _flush(self) -> None:
        self.forwards.index_add_(0, self.rows, torch.full_like(self.rows, self.calls))
        self.calls = 0

    def _count_backward(self, rows: Tensor) -> None:
        self.backwards.index_add_(0, rows, torch.ones_like(rows))

    def _checked(self, x: Tensor, rows: Tensor) -> Tensor:
        """The images, whose gradient is looked at when it arrives at them."""
        if not (x.requires_grad and torch.is_grad_enabled()):
            return x
        x = x.view_as(x)  # a leaf that is passed again would keep the hooks of all passes
        x.register_hook(lambda grad: self._note_gradient(grad, rows))  # type: ignore[no-untyped-call]
        return x

    def _note_gradient(self, grad: Tensor, rows: Tensor) -> None:
        suspect = (~grad.sum(tuple(range(1, grad.ndim))).isfinite()).nonzero()[:, 0]  # a sum may also overflow
        if len(suspect):
            self.bad_gradient[rows[suspect[~grad[suspect].isfinite().flatten(1).all(1)]]] = True

    def _notice(self, x: Tensor, logits: Tensor, rows: Tensor) -> None:
        erring = (logits.argmax(1) != self.y[rows]) & (self.fell_at[rows] < 0)
        if not erring.any():
            return
        assert self.threat is not None
        where = erring.nonzero()[:, 0]
        where = where[self.threat.contains(self.clean[rows[where]], x[where])]
        self.fell_at[rows[where]] = self.passed(rows[where])
