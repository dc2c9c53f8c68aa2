"""Memory that a compression needs, from the configuration of the model alone."""

from mobilellm.accounting import count_parameters
from mobilellm.compression.recipe import Recipe
from mobilellm.models import ModelConfig
from mobilellm.units import bytes_text

# Weights, and the residual streams, are computed in float32, and second moments in float64.
FLOAT_BYTES, MOMENT_BYTES = 4, 8
# The sum of the outer products, that of one batch, the one with the teacher, the damped moment, its
# Cholesky factor, and one more in a product.
MOMENTS = 6


def compression_memory(
    recipe: Recipe, config: ModelConfig, calibration_tokens: int
) -> dict[str, int]:
    """Bytes by what they are needed for, without the activations of a batch.

    Args:
        recipe: holds the second moments of one input at a time.
        config: of the model before compression.
        calibration_tokens: tokens of the calibration text.
    """
    weights = FLOAT_BYTES * count_parameters(config).stored
    needed = {"the model and the compressed one": 2 * weights}
    if recipe.measures_inputs:
        names = recipe.layer_names(config) or tuple(config.matrix_sizes)
        widest = max(config.matrix_sizes[name][1] for name in names)
        streams = 2 * FLOAT_BYTES * calibration_tokens * config.hidden_size
        needed["residual streams of the calibration text"] = streams
        needed["second moments of one input"] = MOMENTS * MOMENT_BYTES * widest**2
    if recipe.refines_weights:
        # Copies of both models, and of the weights with the lowest loss.
        needed["gradient steps"] = 3 * weights
    return needed


def memory_text(needed: dict[str, int]) -> str:
    """The forecast in lines of at most 80 columns."""
    lines = [f"memory      about {bytes_text(sum(needed.values()))}, and a batch's activations"]
    lines += [f"            {bytes_text(size)}: {name}" for name, size in needed.items()]
    return "\n".join(lines)
