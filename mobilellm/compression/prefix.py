"""Measuring one block without running those before it again.

A propagated fit measures each block several times: after each of its matrices it has changed. The
blocks before its first use are finished by then, so the residual streams that reach it are kept.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mobilellm.compression.recipe import Batch
from mobilellm.models import MobileLLM
from mobilellm.models.attention_mask import attention_mask_of


class Prefix:
    """Residual streams before the first use of a block, of two models on the same text.

    Blocks are to be compressed in the order of their first use. Holds two numbers (of the models'
    type) for each token and unit of width.

    Args:
        teacher: the model as it was; the other one changes from block to block.
        calibration: batches of `input_ids` (batch, seq), with or without `document_ids`.

    Raises:
        ValueError: the model shares keys and values between uses of a block, which then needs more
            than the residual stream.
    """

    def __init__(self, teacher: MobileLLM, calibration: Sequence[Batch]) -> None:
        """Nothing is computed yet: the token table may still change."""
        if not self.serves(teacher):
            raise ValueError("share_kv=first needs whole forward passes")
        self.teacher = teacher
        self.calibration = calibration
        self.layers = slice(0, 0)
        """Applications from the block's first to its last, positions in `layer_order`."""
        self._streams: dict[bool, list[Tensor]] = {}

    @staticmethod
    def serves(model: MobileLLM) -> bool:
        """Whether the residual stream is all that an application reads."""
        return model.config.share_kv != "first"

    @torch.no_grad()
    def move_to(self, block: int, model: MobileLLM) -> None:
        """Go on to a block at or after the present one; `model` is compressed up to there.

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
            ahead = slice(self.layers.start, first)
            self._streams[one is self.teacher] = [
                self._run(one, stream, ahead, batch)
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
