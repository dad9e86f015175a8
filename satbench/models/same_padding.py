"""TensorFlow's SAME padding, which is asymmetric wherever a stride meets an even side."""

from torch import Tensor, nn
from torch.nn import functional


def same_padding(side: int, kernel: int, stride: int) -> tuple[int, int]:
    """Cells before and after one axis of `side` cells, so that ceil(side / stride) windows cover it."""
    windows = -(-side // stride)
    total = max((windows - 1) * stride + kernel - side, 0)
    return total // 2, total - total // 2


def _paddings(x: Tensor, kernel: int, stride: int) -> tuple[int, int, int, int]:
    """Left, right, top and bottom, the order of `functional.pad`."""
    height, width = x.shape[-2:]
    return (*same_padding(width, kernel, stride), *same_padding(height, kernel, stride))


class Conv2dSame(nn.Conv2d):
    """A convolution with a square kernel and SAME zero padding, worked out from each input."""

    def forward(self, x: Tensor) -> Tensor:
        left, right, top, bottom = _paddings(x, self.kernel_size[0], self.stride[0])
        if left != right or top != bottom:
            x, left, top = functional.pad(x, (left, right, top, bottom)), 0, 0
        return functional.conv2d(x, self.weight, self.bias, self.stride, (top, left), self.dilation, self.groups)


class MaxPool2dSame(nn.Module):
    """Max pooling with SAME padding: padded cells never win, also where every value is negative."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        padded = functional.pad(x, _paddings(x, self.kernel, self.stride), value=-float("inf"))
        return functional.max_pool2d(padded, self.kernel, self.stride)
