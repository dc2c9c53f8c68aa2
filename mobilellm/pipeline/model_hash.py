"""A hash of a model that does not depend on the file that it was read from."""

import hashlib
import json
from typing import Protocol

import torch
from torch import nn


class _Configuration(Protocol):
    """The configuration of a model: ours, or one of Hugging Face."""

    def to_dict(self) -> dict[str, object]: ...


def model_hash(model: nn.Module) -> str:
    """Hash of a model's configuration and weights; 32 hex digits."""
    config: _Configuration = getattr(model, "config", None) or model.model.config  # pyright: ignore
    fields = {
        key: value
        for key, value in config.to_dict().items()
        # The path and the version of transformers are not part of the model.
        if not key.startswith("_") and key != "transformers_version"
    }
    digest = hashlib.blake2b(json.dumps(fields, sort_keys=True, default=str).encode())
    digest = hashlib.blake2b(digest.digest(), digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
