"""Leaves the weights that training does not change out of checkpoints."""

import hashlib
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

# The model is the attribute `model` of the module whose state is saved.
PREFIX = "model."


class FrozenWeights:
    """The tensors of a model that training does not change, if any parameter is frozen.

    A checkpoint then holds the trained parameters and a hash of the others, which a run that
    resumes has read from where it read them at first. Models without frozen parameters are saved
    as a whole.

    Args:
        model: with `requires_grad` set as in training.
    """

    def __init__(self, model: nn.Module) -> None:
        """Keep a reference to the model; nothing is copied."""
        self._model = model

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the frozen tensors in the state of the model, buffers included."""
        parameters = dict(self._model.named_parameters())
        trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
        if len(trained) == len(parameters):
            return ()
        return tuple(name for name in self._model.state_dict() if name not in trained)

    @cached_property
    def content_hash(self) -> str:
        """Hash of names, types, sizes and values; 32 hex digits."""
        digest = hashlib.blake2b(digest_size=16)
        state = self._model.state_dict()
        for name in self.names:
            tensor = state[name].detach().cpu().contiguous()
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def remove_from(self, checkpoint: dict[str, Any]) -> None:
        """Replace the frozen tensors in a checkpoint by their hash; the dictionary is changed."""
        if not self.names:
            return
        left_out = {f"{PREFIX}{name}" for name in self.names}
        state: dict[str, Tensor] = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if k not in left_out}
        checkpoint["frozen_weights"] = self.content_hash

    def add_to(self, checkpoint: dict[str, Any]) -> None:
        """Add the frozen tensors of the model to a checkpoint; the dictionary is changed.

        Raises:
            ValueError: the checkpoint was written with other frozen weights.
        """
        if not self.names:
            return
        then = checkpoint.get("frozen_weights")
        if then != self.content_hash:
            raise ValueError(
                f"the checkpoint holds an adapter for other weights (hash {then}) than those that "
                f"init_from gives now (hash {self.content_hash}); restore the folder of init_from, "
                "or start a new run"
            )
        state = self._model.state_dict()
        checkpoint["state_dict"] |= {f"{PREFIX}{name}": state[name] for name in self.names}
