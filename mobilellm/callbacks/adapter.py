"""Trains adapters instead of the weights of a model."""

import hashlib
from typing import Any

import torch
from lightning.pytorch import Callback

from mobilellm.accounting.parameters import trained_parameters
from mobilellm.adapters import Adapter
from mobilellm.models import MobileLLM


class AdapterCallback(Callback):
    """Adds adapters to the model before training, and makes their dropout reproducible.

    Args:
        adapter: which matrices get adapters, and how.
        seed: of the initial adapters and of the dropout.
    """

    def __init__(self, adapter: Adapter, *, seed: int = 0) -> None:
        """Keep the arguments; nothing is built yet."""
        self.adapter = adapter
        self.seed = seed
        self._facts: dict[str, Any] = {}

    def adapt(self, model: MobileLLM) -> MobileLLM:
        """Add adapters to `model`, freeze everything else, and return it.

        Raises:
            ValueError: the adapter does not fit the model.
        """
        adapted = self.adapter.adapt(model, seed=self.seed)
        config = adapted.config
        self._facts = {
            "matrices": sum(shape.trains_alone for shape in config.layer_shapes.values()),
            "trained_parameters": trained_parameters(config),
        }
        return adapted

    def summary(self) -> dict[str, Any]:
        """Facts for summary.json: the number of adapted matrices and of trained parameters."""
        return {"adapter": self._facts}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        """Draw the dropout of each step and process from a seed of its own.

        A run that resumes then draws what it would have drawn, on every device.
        """
        if self.adapter.dropout:
            text = f"{self.seed} {pl_module.global_step} {trainer.global_rank}"
            digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
            torch.manual_seed(int.from_bytes(digest, "little") >> 1)
