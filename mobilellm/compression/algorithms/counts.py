"""How many parameters a model has after some of its matrices are factorised: sizes alone."""

from collections.abc import Mapping

from mobilellm.layers.shapes import FactorizedShape, Shape


def count_with(
    sizes: Mapping[str, Shape], replacements: Mapping[str, FactorizedShape], other: int = 0
) -> int:
    """Parameters stored.

    Args:
        sizes: rows and columns of every matrix that is stored, by name.
        replacements: how the factorised ones among them are stored; the rest stay dense.
        other: parameters that are in no matrix: biases, norms.

    Raises:
        ValueError: a replacement of a matrix that is not there, or of another size.
    """
    for name, shape in replacements.items():
        if sizes.get(name) != shape.shape:
            size = f"{sizes[name][0]}x{sizes[name][1]}" if name in sizes else "not there"
            raise ValueError(
                f"{name} is {size}, and its replacement {shape.shape[0]}x{shape.shape[1]}; "
                "give factors whose products are its rows and columns"
            )
    return other + sum(
        replacements[name].parameters if name in replacements else rows * columns
        for name, (rows, columns) in sizes.items()
    )
