"""numba, begun with torch's threads."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import torch

# numba starts all the threads that it may ever use, each of its loops waits for all of them, and it learns how many
# from the environment alone, anew whenever it compiles.
if "numba" not in sys.modules:
    os.environ.setdefault("NUMBA_NUM_THREADS", str(torch.get_num_threads()))
import numba.extending

config: Any = numba.config
CompileError = numba.core.errors.NumbaError

# torch's wheels bring the OpenMP library that numba would look for, so both share one pool of threads. Two pools
# would each wait for work by spinning, on the cores that the other needs.
config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]


_of_this_thread = threading.local()


def use_torchs_threads() -> None:
    """Of this thread's loops from now on: as many as torch uses, as far as numba has begun them."""
    threads = torch.get_num_threads()
    if getattr(_of_this_thread, "threads", None) != threads:
        numba.set_num_threads(min(threads, config.NUMBA_NUM_THREADS))
        _of_this_thread.threads = threads
