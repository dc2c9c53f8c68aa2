"""Free memory and peak memory of the device that a run trains on."""

import os
import re
from pathlib import Path

import psutil
import torch


def free_memory_bytes(device_type: str) -> int:
    """Bytes that a training step can currently allocate."""
    if device_type == "cuda":
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available


def reset_peak_memory(device_type: str) -> None:
    """Start a new measurement of the peak, because one process may train several runs.

    Without effect on systems that do not support it.
    """
    if device_type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return


def peak_memory_bytes(device_type: str) -> int:
    """Peak memory since the reset: allocated bytes on a GPU, otherwise resident bytes."""
    if device_type == "cuda":
        return torch.cuda.max_memory_allocated()
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        import resource  # not on Windows

        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest * (1 if os.uname().sysname == "Darwin" else 1024)
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found.group(1)) * 1024 if found else 0
