"""The bias of a linear layer."""

from torch import Tensor


def check_bias(bias: Tensor | None, size: int) -> None:
    """Check that a bias is None or has the shape (size,).

    Raises:
        ValueError: the bias has another shape.
    """
    if bias is not None and tuple(bias.shape) != (size,):
        raise ValueError(f"bias has shape {tuple(bias.shape)}; give ({size},) or None")
