"""Which tokens of a batch may attend to which."""

from torch import Tensor

Batch = dict[str, Tensor]


def document_attention_mask(document_ids: Tensor) -> Tensor:
    """Which token may attend to which: (batch, seq) -> bool (batch, query, key), same document."""
    return document_ids.unsqueeze(2) == document_ids.unsqueeze(1)


def attention_mask_of(batch: Batch) -> Tensor | None:
    """The mask that a batch asks for, None where plain causality is meant."""
    document_ids = batch.get("document_ids")
    return None if document_ids is None else document_attention_mask(document_ids)
