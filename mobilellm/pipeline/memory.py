"""Memory of the device that a run trains on: what is free, what fits, and the peak."""

import os
import re
from pathlib import Path

import psutil
import torch


def free_memory_bytes(device_type: str) -> int:
    """Bytes that a training step may allocate now."""
    if device_type == "cuda":
        return torch.cuda.mem_get_info()[0]
    return psutil.virtual_memory().available


def reset_peak_memory(device_type: str) -> None:
    """Measure the peak from now on, if the system allows it: one process may train several runs."""
    if device_type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return


def peak_memory_bytes(device_type: str) -> int:
    """The most memory since the reset: allocated bytes on a GPU, resident bytes elsewhere."""
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
