"""Attention masks that restrict attention to tokens of the same document."""

from jaxtyping import Bool, Int
from torch import Tensor

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


def attention_mask_of(batch: Batch) -> Bool[Tensor, "batch seq seq"] | None:
    """The document mask (batch, queries, keys) of a batch; None if it has no `document_ids`."""
    document_ids = batch.get("document_ids")
    return None if document_ids is None else document_attention_mask(document_ids)
