"""The short name of a shape, in every table and message."""

from mobilellm.models.config import ModelConfig


def shape_name(model: ModelConfig) -> str:
    """Stored blocks and width, and how often the blocks run, such as `8×96 shared ×2`.

    If blocks run unequally often, the number of layers that run is named: `8×96 run as 12`.
    """
    name = f"{model.num_blocks}×{model.hidden_size}"
    if len(set(model.block_uses)) > 1:
        return f"{name} run as {model.num_layers}"
    return f"{name} shared ×{model.block_repeats}" if model.is_shared else name
