"""Types of the matrices in a `.pte` file, computed by torchao."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mobilellm.formats.executorch.decoder import StaticDecoder
from mobilellm.models.checks import check_choice

TYPES = ("fp32", "8da8w", "8da4w")
"""`8da8w`: 8-bit weights, one scale per row; `8da4w`: 4-bit weights, one scale for 32 weights of a
row. Both quantize activations to 8 bits when they run, with one scale per token."""
GROUP_SIZE = 32


class QuantizedTable(nn.Module):
    """A token embedding in 8 bits with one scale per row; an output head is separate from it."""

    def __init__(self, weight: Float[Tensor, "vocab hidden"]) -> None:
        """Round the rows to the nearest multiples of 1 / 127 of their largest values."""
        super().__init__()
        scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("values", (weight / scale).round().to(torch.int8))

    def forward(self, tokens: Int[Tensor, "1 tokens"]) -> Float[Tensor, "1 tokens hidden"]:
        """Look up rows."""
        values = F.embedding(tokens, self.values).to(torch.float32)  # pyright: ignore[reportArgumentType]
        return values * F.embedding(tokens, self.scale)  # pyright: ignore[reportArgumentType]


def check_type(decoder: StaticDecoder, kind: str) -> None:
    """Check that all matrices can be written in a type.

    Raises:
        ValueError: the type is not known, or the rows of a matrix have no whole groups.
    """
    check_choice("type", kind, TYPES)
    if kind != "8da4w":
        return
    for name, layer in decoder.named_modules():
        if isinstance(layer, nn.Linear) and layer.in_features % GROUP_SIZE:
            size = layer.in_features
            below = size // GROUP_SIZE * GROUP_SIZE
            raise ValueError(
                f"{name} has rows of {size} weights, and the type {kind} needs whole groups of "
                f"{GROUP_SIZE}: {f'{below} or ' if below else ''}{below + GROUP_SIZE} would do; "
                "use --type 8da8w, which has one scale per row"
            )


def quantize(decoder: StaticDecoder, kind: str) -> None:
    """Quantize a decoder in place.

    The embedding and the output head have 8 bits in both types, and are stored separately even if
    they were one matrix: XNNPACK has no look-up.

    Args:
        decoder: in float32.
        kind: one of `TYPES`, for which `check_type` raises no error.
    """
    if kind == "fp32":
        return
    from torchao.quantization.granularity import PerAxis, PerGroup  # pyright: ignore[reportMissingImports]
    from torchao.quantization.quant_api import Int8DynamicActivationIntxWeightConfig, quantize_  # pyright: ignore[reportMissingImports]

    table: Tensor = decoder.table.weight  # pyright: ignore[reportAssignmentType]
    if decoder.head is None:
        decoder.head = nn.Linear(table.shape[1], table.shape[0], bias=False, device="meta")
        decoder.head.weight = nn.Parameter(table.detach().clone(), requires_grad=False)
    decoder.table = QuantizedTable(table.detach())
    by_row = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=torch.int8, weight_granularity=PerAxis(0)
    )
    by_group = Int8DynamicActivationIntxWeightConfig(
        weight_dtype=torch.int4,  # pyright: ignore[reportAttributeAccessIssue]
        weight_granularity=PerGroup(GROUP_SIZE),
    )
    config = by_group if kind == "8da4w" else by_row
    quantize_(decoder.blocks, config)
    quantize_(decoder.head, by_row)
