"""Attention masks that keep the documents of a packed window apart."""

from torch import Tensor

Batch = dict[str, Tensor]


def document_attention_mask(document_ids: Tensor) -> Tensor:
    """True if query and key lie in one document: ids (batch, seq) -> bool (batch, query, key)."""
    return document_ids.unsqueeze(2) == document_ids.unsqueeze(1)


def attention_mask_of(batch: Batch) -> Tensor | None:
    """The mask (batch, query, key) for a batch with `document_ids`; None (causal only) without."""
    document_ids = batch.get("document_ids")
    return None if document_ids is None else document_attention_mask(document_ids)
