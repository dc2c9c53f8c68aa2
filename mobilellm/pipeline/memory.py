"""Memory of the device a run trains on: what is free, and the most it took."""

import os
import re
from pathlib import Path


def free_memory_bytes(device_type: str) -> int:
    """Bytes that a training step may take now."""
    if device_type == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0]
    import psutil

    return psutil.virtual_memory().available


def reset_peak_memory(device_type: str) -> None:
    """Begin a new peak, where the system lets a process do so: several runs may share it."""
    if device_type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats()
        return
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    except OSError:
        return


def peak_memory_bytes(device_type: str) -> int:
    """The most memory taken since the reset: allocated on a GPU, resident elsewhere."""
    if device_type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        import resource

        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest * (1 if os.uname().sysname == "Darwin" else 1024)
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found.group(1)) * 1024 if found else 0
