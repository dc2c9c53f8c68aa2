"""Attention masks that keep the documents of a packed window apart."""

from jaxtyping import Bool, Int
from torch import Tensor

Batch = dict[str, Tensor]


def document_attention_mask(
    document_ids: Int[Tensor, "batch seq"],
) -> Bool[Tensor, "batch seq seq"]:
    """True if query and key lie in one document: ids (batch, seq) -> bool (batch, query, key)."""
    return document_ids.unsqueeze(2) == document_ids.unsqueeze(1)


def attention_mask_of(batch: Batch) -> Bool[Tensor, "batch seq seq"] | None:
    """The mask (batch, query, key) for a batch with `document_ids`; None (causal only) without."""
    document_ids = batch.get("document_ids")
    return None if document_ids is None else document_attention_mask(document_ids)
