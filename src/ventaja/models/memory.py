"""Memory of the process: keep what large tensors gave back, and take no more than a stated amount."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ventaja.errors import ConfigError

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGE = 2**30
_GIB = 2**30


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next allocation. False where there is no glibc.

    By default glibc maps every block above some megabytes anew and unmaps it when it is freed, so each step
    of training on a CPU pays for zeroing gigabytes, page by page. After this call, blocks below 1 GiB come
    from the heap and the heap is not trimmed: the process stays as large as its largest step. Results do not
    change, nor does memory on a GPU. It acts on the whole process, so the command line calls it and the
    library never does.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGE)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))


def check_memory_limit(device: torch.device, gib: float) -> None:
    """Raises ConfigError where there is no such limit as `memory_limit`, or where more is in use already."""
    if device.type != "cuda" and sys.platform != "linux":
        raise ConfigError("run.max_memory: only Linux can limit the memory of a run on a CPU. Leave it out.")
    in_use = torch.cuda.memory_allocated(device) / _GIB if device.type == "cuda" else data_in_use()
    if gib < in_use:
        raise ConfigError(
            f"run.max_memory is {gib:g} GiB, but with its model loaded the run holds {in_use:.1f} GiB. Raise it."
        )


@contextmanager
def memory_limit(device: torch.device, gib: float) -> Iterator[None]:
    """Inside the block, asking for more than so many GiB fails, instead of filling the machine.

    On a GPU it is the share of its memory; on a CPU the data of this process (RLIMIT_DATA, which only Linux holds
    to).
    """
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory / _GIB
        torch.cuda.set_per_process_memory_fraction(min(1.0, gib / total), device)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return
    import resource

    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = int(gib * _GIB)
    resource.setrlimit(
        resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
    )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def data_in_use() -> float:
    """GiB of this process's data, as the limit counts it (Linux)."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmData")) / 2**20


def is_out_of_memory(error: BaseException) -> bool:
    """True if this is how torch, or a library below it, says that memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return any(
        text in str(error)
        for text in (
            "can't allocate memory",
            "out of memory",
            "std::bad_alloc",
            "bad allocation",
            "ALLOC_FAILED",
        )
    )
