"""The size of an exported model, compared with the model it was made from."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from mobilellm.accounting import count_parameters
from mobilellm.units import bytes_text

if TYPE_CHECKING:
    from mobilellm.models import MobileLLM


def export_summary(model: "MobileLLM", folder: str | Path) -> str:
    """Describe the size of an export, and the size of `model` if that is smaller.

    Args:
        model: the model that was exported.
        folder: contains the exported model.safetensors.
    """
    from safetensors import safe_open

    from mobilellm.checkpoint import WEIGHTS_FILE, stored_bytes

    path = Path(folder) / WEIGHTS_FILE
    with safe_open(path, "pt") as file:
        written = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    config = model.config
    text = (
        f"{config.num_layers} layers, {written:,} parameters, {bytes_text(path.stat().st_size)} "
        "on disk"
    )
    stored = count_parameters(config).stored
    reasons = []
    if config.num_layers > config.num_blocks:
        reasons.append(f"its {config.num_blocks} shared blocks are exported once per application")
    if config.compressed_layers:
        reasons.append("its compressed matrices are exported as dense ones")
    if not reasons:
        return text
    own = f"{stored:,} parameters in {bytes_text(stored_bytes(model))}"
    return f"{text}; the model itself has {own}: {', '.join(reasons)}"
