"""Networks that compute in another precision than float32, with float32 logits."""

import torch
from torch import Tensor, nn


class Float32Ends(nn.Module):
    """`inner`, given images cast to `dtype`, with its logits cast to float32; gradients pass through both casts."""

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner = inner
        self.dtype = dtype

    @property
    def note(self) -> str:
        """What the casts mean for a result."""
        name = str(self.dtype).removeprefix("torch.")
        return f"the weights of the network are {name}: images are cast to it, and logits back to float32"

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.inner(x.to(self.dtype))
        return logits.float()


def float32_ends(model: nn.Module) -> nn.Module:
    """The model, or `Float32Ends` around it where all its floating-point weights have one other dtype."""
    dtypes = {parameter.dtype for parameter in model.parameters() if parameter.is_floating_point()}
    if isinstance(model, Float32Ends) or len(dtypes) != 1 or torch.float32 in dtypes:
        return model
    wrapped = Float32Ends(model, dtypes.pop())
    return wrapped.train(model.training)


class Autocast(nn.Module):
    """A network under bfloat16 autocast whose logits are float32, so that losses are computed in float32."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16):
            logits: Tensor = self.net(x)
        return logits.float()
