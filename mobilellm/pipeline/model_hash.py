"""A hash that is equal for equal models, whatever file they were read from."""

import hashlib
import json
from typing import Any

import torch
from torch import nn


def model_hash(model: nn.Module) -> str:
    """Hash of a model's configuration and weights; 32 hex digits."""
    config: Any = getattr(model, "config", None) or model.model.config  # pyright: ignore
    fields = {
        key: value
        for key, value in config.to_dict().items()
        # Its path and the version that read it are not part of the model.
        if not key.startswith("_") and key != "transformers_version"
    }
    digest = hashlib.blake2b(json.dumps(fields, sort_keys=True, default=str).encode())
    digest = hashlib.blake2b(digest.digest(), digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
