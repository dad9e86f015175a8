"""Files of `torch.save`: damage that its checksums show, and tensors that are not dense numbers of the right kind."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from satbench.core.errors import BadInput
from satbench.models.weights import load_strictly, read_weights
from satbench.zoo import load


def test_no_flipped_bit_gives_other_weights(tmp_path: Path) -> None:
    file = tmp_path / "net.pt"
    torch.save({"w": torch.arange(16.0)}, file)
    content, right = file.read_bytes(), torch.arange(16.0).numpy().tobytes()
    start = content.index(right)
    for place in range(start, start + len(right)):
        file.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(BadInput, match="is damaged: 'net/data/0' does not have its CRC-32"):
            read_weights(file)


ODD_TENSORS: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "sparse": (lambda w: w.to_sparse(), "kind sparse_coo"),
    "without values": (lambda w: w.to("meta"), "kind meta"),
    "complex": (lambda w: w.to(torch.complex64), "torch.complex64 instead of torch.float32"),
    "boolean": (lambda w: w.bool(), "torch.bool instead of torch.float32"),
    "bytes": (lambda w: w.byte(), "torch.uint8 instead of torch.float32"),
    "one value repeated": (lambda w: w[0, 0].expand(w.shape[0] * 10**9, w.shape[1]), "more elements than the file"),
}


@pytest.mark.parametrize("case", ODD_TENSORS)
def test_tensors_of_another_kind_are_refused(case: str, tmp_path: Path) -> None:
    change, hint = ODD_TENSORS[case]
    net, file = nn.Linear(3, 4), tmp_path / "net.pt"
    torch.save(net.state_dict() | {"weight": change(net.weight.data)}, file)
    with pytest.raises(BadInput, match=f"'weight' .*{hint}"):
        load_strictly(net, read_weights(file), file)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_another_precision_are_converted(dtype: torch.dtype, tmp_path: Path) -> None:
    net, file = nn.Linear(3, 4), tmp_path / "net.pt"
    weight = net.weight.detach().to(dtype)
    torch.save(net.state_dict() | {"weight": weight}, file)
    load_strictly(net, read_weights(file), file)
    assert torch.equal(net.weight.data, weight.float())


def test_a_pickle_of_another_protocol_gives_no_warning(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    (tmp_path / "net.pt").write_bytes(pickle.dumps([1], protocol=4))
    with pytest.raises(BadInput, match="pickle with more than plain weights"):
        read_weights(tmp_path / "net.pt")
    assert not recwarn.list


@pytest.mark.parametrize("name", ["net.pt", "net.pt2", "net.safetensors"])
def test_a_pipe_in_place_of_weights_is_named(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(BadInput, match=f"{name} is not a plain file"):
        load(str(tmp_path / name)) if name == "net.pt2" else read_weights(tmp_path / name)
