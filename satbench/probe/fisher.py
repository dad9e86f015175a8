"""Fisher information of a network's prediction: about its image, and about its weights.

Definitions: Terzi et al. 2021 (arXiv 2007.11259), who do not state layers or sample counts; those are ours.
"""

from collections import defaultdict

import torch
from torch import Tensor, nn
from torch.func import functional_call

from satbench.numerics.seeding import PerSample, uniform

EXACT = 20  # classes, up to which the expectation over labels is a sum over all of them
DRAWS = 8  # labels drawn for an image where there are more
LABELS = (
    f"input Fisher: all classes, or {DRAWS} labels drawn for each image where there are more than {EXACT} classes; "
    "weight Fisher: one label drawn for each image"
)


def input_fisher(model: nn.Module, x: Tensor, streams: PerSample) -> Tensor:
    """The trace of the Fisher information of the prediction about each image, float64 (N,).

    sum_c p_c |grad_x log p_c|^2 for images `x` (N, C, H, W) in [0, 1], the gradient with respect to these pixels. With
    more than `EXACT` classes the sum is estimated, without bias, from `DRAWS` labels drawn from the prediction.
    """
    point = x.detach().clone().requires_grad_()
    with torch.enable_grad():
        logs = model(point).log_softmax(1)
    classes = logs.shape[1]
    if classes <= EXACT:
        labels = torch.arange(classes, device=x.device).expand(len(x), classes)
        weights = logs.detach().exp().double()
    else:
        labels = torch.stack([drawn(logs, streams) for _ in range(DRAWS)], dim=1)
        weights = torch.full(labels.shape, 1 / DRAWS, dtype=torch.float64, device=x.device)
    trace = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    for weight, label in zip(weights.T, labels.T, strict=True):
        (slope,) = torch.autograd.grad(logs.gather(1, label[:, None]).sum(), point, retain_graph=True)
        trace += weight * slope.flatten(1).double().square().sum(1)
    return trace


def weight_fisher(model: nn.Module, x: Tensor, streams: PerSample) -> dict[str, Tensor]:
    """Estimates of the trace of the Fisher information of the prediction about the weights, by layer: float64 (N,).

    |grad_w log p(y|x)|^2 with one label `y` drawn from the prediction for each image, which has the trace as its
    expectation; with true labels it would be the empirical Fisher, another quantity. A layer is a module that owns
    parameters. The images pass one at a time, so any network has its gradients; the model's weights and `.grad` stay
    as they were. Use eval mode, where images do not depend on each other.
    """
    weights = {
        name: weight.detach().requires_grad_()
        for name, weight in model.named_parameters()
        if weight.is_floating_point()
    }
    traces: dict[str, list[float]] = defaultdict(list)
    for row in range(len(x)):
        with torch.enable_grad():
            logs = functional_call(model, weights, (x[row : row + 1],)).log_softmax(1)
        label = drawn(logs, PerSample(streams.generators[row : row + 1]))
        slopes = torch.autograd.grad(logs[0, label[0]], tuple(weights.values()), allow_unused=True)
        sums: dict[str, float] = defaultdict(float)
        for name, slope in zip(weights, slopes, strict=True):
            sums[name.rpartition(".")[0]] += 0.0 if slope is None else float(slope.double().square().sum())
        for layer, total in sums.items():
            traces[layer].append(total)
    return {layer: torch.tensor(values, dtype=torch.float64) for layer, values in traces.items()}


def drawn(logs: Tensor, streams: PerSample) -> Tensor:
    """A label from each row of log-probabilities (N, K), int64 (N,): by inversion of the distribution function."""
    upto = logs.detach().double().exp().cumsum(1)
    threshold = uniform(upto[:, :1], streams) * upto[:, -1:]
    return torch.searchsorted(upto, threshold, right=True)[:, 0].clamp_max(logs.shape[1] - 1)
