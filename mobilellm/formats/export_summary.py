"""The size of an exported model, compared with the model it was made from."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from mobilellm.accounting import count_parameters
from mobilellm.units import bytes_text

if TYPE_CHECKING:
    from mobilellm.models import MobileLLM


def export_summary(model: "MobileLLM", folder: str | Path, *, custom_code: bool = False) -> str:
    """Describe the size of an export, and the size of `model` if that is smaller.

    Args:
        model: the model that was exported.
        folder: contains the exported model.safetensors.
        custom_code: whether the folder has a modelling file of its own, with which shared blocks
            and factorised matrices are stored as they are.
    """
    from safetensors import safe_open

    from mobilellm.checkpoint import WEIGHTS_FILE, stored_bytes

    path = Path(folder) / WEIGHTS_FILE
    with safe_open(path, "pt") as file:
        slices = (file.get_slice(name) for name in file.keys())  # noqa: SIM118
        written = sum(math.prod(s.get_shape()) for s in slices if "F" in s.get_dtype())
    config = model.config
    text = (
        f"{config.num_layers} layers, {written:,} parameters, {bytes_text(path.stat().st_size)} "
        "on disk"
    )
    stored = count_parameters(config).stored
    reasons = []
    if config.num_layers > config.num_blocks and not custom_code:
        reasons.append(f"its {config.num_blocks} shared blocks are exported once per application")
    if config.compressed_layers and (not custom_code or written > stored):
        reasons.append("its compressed matrices are exported as dense ones")
    if not reasons:
        return text
    own = f"{stored:,} parameters in {bytes_text(stored_bytes(model))}"
    return f"{text}; the model itself has {own}: {', '.join(reasons)}"
