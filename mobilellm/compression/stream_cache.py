"""The residual streams before a block, kept so that earlier blocks do not run again.

A propagated fit measures each block several times, since it changes with each of its matrices. All
blocks before its first use are final by then, and so is the residual stream that reaches it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mobilellm.compression.recipe import Batch
from mobilellm.models import MobileLLM
from mobilellm.models.attention_mask import attention_mask_of


class StreamCache:
    """Residual streams of two models on the same text, before the first use of a block.

    Blocks must be compressed in the order of their first use. Memory: two numbers, in the type of
    the models, per token and unit of the hidden size.

    Args:
        teacher: the model before compression; the other model changes from block to block.
        calibration: batches of `input_ids` (batch, seq), with or without `document_ids`.

    Raises:
        ValueError: the model shares keys and values between uses of a block, which then needs more
            than the residual stream.
    """

    def __init__(self, teacher: MobileLLM, calibration: Sequence[Batch]) -> None:
        """Nothing is computed yet: the token embedding may still change."""
        if not self.serves(teacher):
            raise ValueError("share_kv=first needs whole forward passes")
        self.teacher = teacher
        self.calibration = calibration
        self.layers = slice(0, 0)
        """Applications from the block's first to its last, positions in `layer_order`."""
        self._streams: dict[bool, list[Tensor]] = {}

    @staticmethod
    def serves(model: MobileLLM) -> bool:
        """Whether a block reads the residual stream only, and no keys and values of another use."""
        return model.config.share_kv != "first"

    @torch.no_grad()
    def move_to(self, block: int, model: MobileLLM) -> None:
        """Move to the current block or a later one; `model` is compressed up to there.

        Raises:
            ValueError: a block whose first use lies before the present one's.
        """
        order = self.teacher.config.layer_order
        first, last = order.index(block), len(order) - 1 - order[::-1].index(block)
        if first < self.layers.start:
            raise ValueError(
                f"block {block} first runs at layer {first}, before layer {self.layers.start}, "
                "where the residual streams are; go through the blocks in the order of their "
                "first use"
            )
        for one in (model, self.teacher):
            streams = self._streams.get(one is self.teacher)
            if streams is None:
                streams = [one.embedding(b["input_ids"].to(_device(one))) for b in self.calibration]
            next_layers = slice(self.layers.start, first)
            self._streams[one is self.teacher] = [
                self._run(one, stream, next_layers, batch)
                for stream, batch in zip(streams, self.calibration, strict=True)
            ]
        self.layers = slice(first, last + 1)

    def __call__(self, model: MobileLLM, number: int) -> None:
        """Run the block's uses, and what lies between them, on one batch of the calibration set."""
        stream = self._streams[model is self.teacher][number]
        self._run(model, stream, self.layers, self.calibration[number])

    @staticmethod
    def _run(model: MobileLLM, stream: Tensor, layers: slice, batch: Batch) -> Tensor:
        mask = attention_mask_of({key: value.to(stream.device) for key, value in batch.items()})
        return model.run_layers(stream, layers, attention_mask=mask)


def _device(model: MobileLLM) -> torch.device:
    return next(model.parameters()).device
