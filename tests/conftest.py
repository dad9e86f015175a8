import os

import torch

# one thread unless the environment says otherwise: the tests' networks are too small for more, and bits depend on it
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
