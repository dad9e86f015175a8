import os
import signal
from collections import Counter

import pytest
import torch

# one thread unless the environment says otherwise: the tests' networks are too small for more, and bits depend on it
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

# a shell starts background jobs with Ctrl-C ignored, and the processes that tests interrupt would inherit that
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of the cases of a test marked `one_in(k)`, every k-th runs by default; the others are slow and `left_out`."""
    seen: Counter[str] = Counter()
    for item in items:
        mark = item.get_closest_marker("one_in")
        if mark is not None and item.get_closest_marker("slow") is None:
            test = item.nodeid.partition("[")[0]
            if seen[test] % mark.args[0]:
                item.add_marker(pytest.mark.slow)
                item.add_marker(pytest.mark.left_out)
            seen[test] += 1
