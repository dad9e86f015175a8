"""How the images of one step of an attack are cut into batches, a function of the plan alone."""

from collections.abc import Sequence

LARGE = 16_384  # images of a run, above which batches shrink: 64 batches of 256
SHARE = 100  # a batch holds at most the so-many-th part of the rows that are left
SMALLEST = 32  # images of a batch that shrank


def batch_size_at(row: int, images: int, batch_size: int) -> int:
    """The size of the batch whose first image is `row` of a run of `images`, at most `batch_size`.

    `batch_size` is the unit of an attack that draws for whole batches. In a run of more than `LARGE` images batches
    shrink towards its end, so that many workers finish together (guided
    self-scheduling, Polychronopoulos and Kuck 1987, with a fixed number in place of the number of workers).
    `benchmarks/scheduling.py` simulates it.
    """
    if images <= LARGE:
        return batch_size
    return min(batch_size, max(SMALLEST, (images - row) // SHARE))


def cut(rows: Sequence[int], images: int, batch_size: int, *, ended: bool = True) -> list[Sequence[int]]:
    """The batches of the images at `rows`, in order.

    rows: ascending positions in a run of `images` images, of those that stand at the start of a step.
    ended: false where `rows` is only the beginning of what will stand, known so far. The last, partial batch is then
        left out, and every batch returned is also one of the whole list.
    """
    batches: list[Sequence[int]] = []
    start = 0
    while start < len(rows):
        size = batch_size_at(int(rows[start]), images, batch_size)
        if start + size > len(rows) and not ended:
            break
        batches.append(rows[start : start + size])
        start += size
    return batches
