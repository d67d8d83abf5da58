"""What a training could leave behind in its process for the next one: settings of torch, global random
streams."""

from __future__ import annotations

import random

import numpy as np
import torch


def reset_process_state() -> None:
    """Make this process like a new one for the next training. Imports, the CUDA context and open files stay;
    compiled graphs are dropped by the next training that compiles."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.use_deterministic_algorithms(False)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = False
    torch.backends.cudnn.allow_tf32 = True
