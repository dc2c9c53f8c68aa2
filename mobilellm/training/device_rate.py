"""The rate of matrix products on this device, the reference for model FLOPs utilisation."""

import functools
import time

import torch

# Size of the square matrices: large enough to occupy the device, small enough for many products.
MATRIX_SIZES = {"cpu": 1024, "mps": 2048, "cuda": 8192}


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """What `measure_matmul_rate` measures, once in a process for each setting and thread count."""
    return _remembered_rate(device, dtype, torch.get_num_threads())


@functools.cache
def _remembered_rate(device: torch.device, dtype: torch.dtype, _threads: int) -> float:
    rate = measure_matmul_rate(device, dtype)
    if device.type == "cuda":
        # The peak memory of a run must not include the matrices; nothing was trained before them.
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return rate


def measure_matmul_rate(
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    seconds: float = 0.3,
) -> float:
    """Measure the FLOP/s of the fastest square matrix product within `seconds`.

    The fastest product counts, because disturbances can only slow a measurement down. A
    multiplication and an addition are two FLOPs.

    Args:
        device: the device to measure.
        dtype: number type of both factors and the product.
        seconds: duration of the measurement, after one product as warm-up.
    """
    device = torch.device(device)
    size = MATRIX_SIZES.get(device.type, MATRIX_SIZES["cpu"])
    left = torch.randn(size, size, device=device).to(dtype)
    right = torch.randn(size, size, device=device).to(dtype)
    out = left @ right
    best, end = float("inf"), time.perf_counter() + seconds
    while True:
        _synchronize(device)
        start = time.perf_counter()
        torch.matmul(left, right, out=out)
        _synchronize(device)
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return 2.0 * size**3 / best


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
