"""Batch norm over the whole batch that several processes share."""

from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class WholeBatchNorm(_BatchNorm):
    """Batch norm that, while it learns, takes mean and variance over the images of all processes.

    torch's SyncBatchNorm does so on GPUs alone. Two all-reduces a forward pass, one for the mean and one for the
    squares around it, and two a backward pass.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from (N, C) on."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        axes = [0, *range(2, input.ndim)]
        images = input.float()  # statistics are taken in float32, also under autocast
        shape = [1, -1, *[1] * (input.ndim - 2)]
        own = images.new_full((1,), input.numel() / input.shape[1])
        sums = _total(torch.cat([images.sum(axes), own]))
        n = sums[-1].detach()
        mean = sums[:-1] / n
        centred = images - mean.view(shape)
        variance = _total(centred.square().sum(axes)) / n
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(variance * (n / (n - 1)), share)
        out = centred * (variance + self.eps).rsqrt().view(shape)
        if self.weight is not None:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)


def over_whole_batch(model: nn.Module) -> None:
    """Make every batch norm of the model a `WholeBatchNorm`, its parameters, buffers and names kept."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.__class__ = WholeBatchNorm


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, part: Tensor) -> Tensor:
        whole = part.clone()
        torch.distributed.all_reduce(whole)
        return whole

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        whole = gradients[0].clone()
        torch.distributed.all_reduce(whole)
        return whole


def _total(part: Tensor) -> Tensor:
    """The sum over the processes; so is its gradient."""
    total: Tensor = _Total.apply(part)
    return total
