"""Tells one model from another by what it is, not by its file."""

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def model_hash(model: "nn.Module") -> str:
    """Hash of a model's configuration and weights, whatever file they came from."""
    import torch

    config: Any = getattr(model, "config", None) or model.model.config  # pyright: ignore
    fields = {
        key: value
        for key, value in config.to_dict().items()
        # Where it lay and what opened it is not the model.
        if not key.startswith("_") and key != "transformers_version"
    }
    digest = hashlib.blake2b(json.dumps(fields, sort_keys=True, default=str).encode())
    digest = hashlib.blake2b(digest.digest(), digest_size=16)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
