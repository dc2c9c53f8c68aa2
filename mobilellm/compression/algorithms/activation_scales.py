"""Scales of inputs that lower the error of rounded weights.

Multiplying the column of a weight by s, and its input by 1 / s, leaves the outputs as they are, but
the weights of a large input are then rounded more finely than others.

Source: Lin et al. 2024, AWQ, arXiv:2306.00978, section 3.
"""

from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor

from mobilellm.compression.algorithms.metric import Metric

_SMALLEST = 1e-4

Rounding = Callable[[Tensor], Tensor]


def search_scales(
    weights: Sequence[Float[Tensor, "_ columns"]],
    rounding: Sequence[Rounding],
    metric: Metric,
    magnitudes: Float[Tensor, " columns"],
    *,
    num_exponents: int = 20,
) -> Float[Tensor, " columns"]:
    """Choose the scales of the inputs of several weights: powers of the inputs' magnitudes.

    Tries the exponents 0, 1/n, … (n - 1)/n. The exponent 0 gives scales of 1, so that the error is
    not larger than without scales.

    Args:
        weights: (out, in) each, of the layers that read the same input.
        rounding: for each weight, the function that rounds it.
        metric: of the inputs.
        magnitudes: (in,), root mean square of each input, up to a common factor. (AWQ takes the
            mean absolute value.)
        num_exponents: number n of exponents.

    Returns:
        (in,), float64; the product of the smallest and the largest one is 1.
    """
    magnitudes = (magnitudes.double() / magnitudes.max()).clamp(min=_SMALLEST)
    tried = []
    for step in range(num_exponents):
        scales = magnitudes ** (step / num_exponents)
        scales = scales / (scales.max() * scales.min()).sqrt()
        tried.append((scaled_error(weights, rounding, metric, scales), scales))
    return min(tried, key=lambda one: one[0])[1]


def scaled_error(
    weights: Sequence[Float[Tensor, "_ columns"]],
    rounding: Sequence[Rounding],
    metric: Metric,
    scales: Float[Tensor, " columns"],
) -> float:
    """Mean squared error of the outputs of all weights if they are rounded with these scales."""
    total = 0.0
    for weight, rounded in zip(weights, rounding, strict=True):
        own = scales.to(weight.dtype)
        total += metric.squared_norm(weight - rounded(weight * own) / own)
    return total
