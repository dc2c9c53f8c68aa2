"""Attention masks that restrict attention to tokens of the same document."""

from functools import cache
from importlib.util import find_spec

from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, create_mask

Batch = dict[str, Tensor]


def document_attention_mask(
    document_ids: Int[Tensor, "batch seq"],
) -> Bool[Tensor, "batch seq seq"]:
    """Mask that allows attention within documents only.

    Args:
        document_ids: index of the document of each token, (batch, seq).

    Returns:
        bool (batch, queries, keys), True if query and key belong to the same document.
    """
    return document_ids.unsqueeze(2) == document_ids.unsqueeze(1)


def document_block_mask(document_ids: Int[Tensor, "batch seq"]) -> BlockMask:
    """The same mask, with causality, for torch's FlexAttention.

    It lists the blocks of 128 x 128 scores that are computed; a mask of all scores is not kept.

    Args:
        document_ids: index of the document of each token, (batch, seq).
    """
    rows, length = document_ids.shape
    return create_block_mask(
        lambda batch, _, query, key: (
            (query >= key) & (document_ids[batch, query] == document_ids[batch, key])
        ),
        rows,
        None,
        length,
        length,
        device=document_ids.device,  # pyright: ignore[reportArgumentType]
    )


def attention_mask_of(batch: Batch) -> Bool[Tensor, "batch seq seq"] | BlockMask | None:
    """The document mask of a batch, as `MobileLLM.forward` takes it; None without `document_ids`.

    On an NVIDIA GPU it is a `BlockMask`, because other attention kernels with a mask need memory
    for all scores there; FlexAttention is compiled by Triton.
    """
    document_ids = batch.get("document_ids")
    if document_ids is None:
        return None
    if document_ids.is_cuda and _has_triton():
        return document_block_mask(document_ids)
    return document_attention_mask(document_ids)


def dense_mask(
    mask: Bool[Tensor, "#batch 1 queries keys"] | BlockMask | None,
) -> Bool[Tensor, "#batch 1 queries keys"] | None:
    """The mask (batch or 1, 1, queries, keys) as a tensor, with causality if it had it."""
    if not isinstance(mask, BlockMask):
        return mask
    batch, heads, queries, keys = mask.shape
    return create_mask(
        mask.mask_mod, batch, heads, queries, keys, device=mask.kv_indices.device.type
    )


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None
