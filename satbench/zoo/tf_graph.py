"""Which activation the graph of a TensorFlow checkpoint computes: the variables alone do not tell it.

P.meta is a MetaGraphDef (TensorFlow's meta_graph.proto, graph.proto and node_def.proto). Only the names and operations
of its nodes are read.
"""

from collections.abc import Iterator
from pathlib import Path

from satbench.core.errors import BadInput

MOST_BYTES = 512 << 20  # TensorFlow itself refuses a protocol buffer of 2 GiB; the released ones have a hundredth
# what each activation of the release consists of; TensorFlow 1 has silu as a function of its own, swish_f32
OPERATIONS = {
    frozenset({"Relu"}): "relu",
    frozenset({"Sigmoid"}): "silu",
    frozenset({"swish_f32"}): "silu",
    frozenset({"Elu"}): "elu",
    frozenset({"Tanh"}): "gelu",
    frozenset({"Relu", "Log"}): "smoothrelu",
    frozenset({"Softplus"}): "softplus",
    frozenset({"Softplus", "Tanh"}): "mish",
}
_KNOWN = frozenset().union(*OPERATIONS)
_BLOCKS = ("group0", "blocks_0")  # the scopes of the first blocks of a ResNet and of an EfficientNet
_OTHER = ("se", "gradients")  # scopes inside or around them with other functions


def activation_of(meta: Path) -> str | None:
    """The activation inside the first blocks of a graph, or None for one that no released network has.

    Raises `BadInput` for a file that is no graph.
    """
    if meta.stat().st_size > MOST_BYTES:
        raise BadInput(f"{meta} is larger than any released graph; remove it or fetch it again")
    try:
        found = {operation for name, operation in _nodes(meta.read_bytes()) if operation in _KNOWN and _counts(name)}
    except (IndexError, ValueError):
        raise BadInput(f"{meta} is no TensorFlow graph, or not all of it; remove it or fetch it again") from None
    return OPERATIONS.get(frozenset(found))


def _counts(name: str) -> bool:
    scopes = name.split("/")
    return any(scope in _BLOCKS for scope in scopes) and not any(
        scope in _OTHER or scope.endswith("_grad") for scope in scopes
    )


def _nodes(content: bytes) -> Iterator[tuple[str, str]]:
    """Name and operation of every node of the graph, but not of the functions in its library."""
    for graph in _strings(memoryview(content), 2):
        for node in _strings(graph, 1):
            name, operation = (next(_strings(node, field), memoryview(b"")) for field in (1, 2))
            yield bytes(name).decode(), bytes(operation).decode()


def _strings(message: memoryview, wanted: int) -> Iterator[memoryview]:
    """The byte strings of one field of a protocol buffer; raises ValueError or IndexError where it is damaged."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == 0:
            _, at = _varint(message, at)
            continue
        if wire == 2:
            length, at = _varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at + length > len(message):
            raise ValueError("a field reaches beyond its message")
        if wire == 2 and tag >> 3 == wanted:
            yield message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number of at most ten bytes at `at`, and where it ends."""
    value = 0
    for place in range(10):
        byte = message[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("a number without an end")
