import os
import signal

import torch

# one thread unless the environment says otherwise: the tests' networks are too small for more, and bits depend on it
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))

# a shell starts background jobs with Ctrl-C ignored, and the processes that tests interrupt would inherit that
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
