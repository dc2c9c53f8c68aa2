"""Hugging Face folders with a modelling file of their own, for what plain Llama cannot hold.

Shared blocks are stored once, and factorised matrices by their factors. The folder loads with
`trust_remote_code=True`, without this project.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mobilellm.checkpoint import model_from_state
from mobilellm.formats.dense_weights import dense_matrix
from mobilellm.formats.huggingface.weight_files import read_weights
from mobilellm.layers.factorized import FactorizedShape
from mobilellm.models import MobileLLM, ModelConfig

_TEMPLATES = Path(__file__).parent / "templates"


def modelling_files() -> dict[str, bytes]:
    """The contents of the modelling file and of the one that it imports, by name."""
    return {path.name: path.read_bytes() for path in sorted(_TEMPLATES.glob("*.py"))}


@torch.no_grad()
def custom_state(model: MobileLLM) -> tuple[ModelConfig, dict[str, Tensor]]:
    """The weights with every compressed matrix dense that is not factorised.

    Returns:
        The configuration of that model; its weights by their names in `MobileLLM`, each stored
        block once.
    """
    shapes = model.config.layer_shapes
    dense = [name for name, shape in shapes.items() if not isinstance(shape, FactorizedShape)]
    state = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if model.config.matrix_of(name) not in dense
    }
    for name in dense:
        state[f"{name}.weight"] = dense_matrix(model, name)
    kept = {name: shape for name, shape in shapes.items() if name not in dense}
    return replace(model.config, compressed_layers=kept), state


def import_custom(folder: Path, config: ModelConfig, dtype: torch.dtype | None) -> MobileLLM:
    """Read the model in a folder with the modelling file of this project.

    Args:
        folder: contains the weights.
        config: of the model.
        dtype: data type of the model's weights; None: as they are stored.

    Raises:
        ValueError: a file is damaged, or does not fit the configuration.
        FileNotFoundError: there are no weights.
    """
    state = {
        name: tensor if dtype is None or not tensor.is_floating_point() else tensor.to(dtype)
        for name, tensor in read_weights(folder).items()
    }
    return model_from_state(config, state, folder)
