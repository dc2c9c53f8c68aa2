"""The bias of a linear layer."""

from torch import Tensor


def check_bias(bias: Tensor | None, size: int) -> None:
    """Refuse a bias of another size than (size,).

    Raises:
        ValueError: the shape.
    """
    if bias is not None and tuple(bias.shape) != (size,):
        raise ValueError(f"bias has shape {tuple(bias.shape)}; give ({size},) or None")
