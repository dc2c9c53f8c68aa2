"""The device on which a command computes that does not train."""

import torch

from mobilellm.models.checks import check_choice

DEVICES = ("cpu", "cuda", "mps")


def check_device(device: str, remedy: str) -> None:
    """Check that a device is known and available.

    Args:
        device: its name, one of `DEVICES`.
        remedy: the setting that uses the CPU, for the message.

    Raises:
        ValueError: it is not.
    """
    check_choice("device", device, DEVICES)
    if device != "cpu" and not getattr(torch, device).is_available():
        raise ValueError(f"device={device} is not available here; use {remedy}")
