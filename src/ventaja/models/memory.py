"""Memory of the process: keep what large tensors gave back, because the next step asks for it again."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_LARGE = 2**30


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
