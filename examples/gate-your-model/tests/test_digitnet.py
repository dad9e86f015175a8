import torch

from digitnet import load


def test_the_network_gives_ten_logits_for_each_image() -> None:
    assert load()(torch.rand(2, 1, 8, 8)).shape == (2, 10)
