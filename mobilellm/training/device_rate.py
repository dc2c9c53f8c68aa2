"""What this device reaches in a matrix product: the yardstick of model FLOPs utilisation."""

import time

import torch

# Square matrices large enough that the device is busy and small enough for many tries.
MATRIX_SIZES = {"cpu": 1024, "mps": 2048, "cuda": 8192}


def measure_matmul_rate(
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    seconds: float = 0.3,
) -> float:
    """FLOP/s of the fastest of the square matrix products that fit into `seconds`.

    The fastest, since whatever disturbs a measurement makes it slower. FLOPs are two per
    multiplication and addition.

    Args:
        device: where.
        dtype: of both factors and the product.
        seconds: how long to go on, after one product to warm up.
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
