"""Cache of the residual stream before a block, so that earlier blocks need not run again.

A propagated fit runs each block several times, because every compressed matrix changes the outputs
of the block. The blocks before it are final by then, and hence the residual stream that it reads as
well.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mobilellm.compression.recipe import Batch
from mobilellm.models import MobileLLM
from mobilellm.models.attention_mask import attention_mask_of


class StreamCache:
    """Residual streams of a teacher and a model that is being compressed, on the same text.

    The cached streams are those before the first application of the current block. Blocks must be
    compressed in the order of their first application. The cache stores 2 × tokens × hidden_size
    numbers.

    Args:
        teacher: the model before compression.
        calibration: batches of `input_ids` (batch, seq), with or without `document_ids`.

    Raises:
        ValueError: the model shares keys and values between applications of a block, which then
            reads more than the residual stream.
    """

    def __init__(self, teacher: MobileLLM, calibration: Sequence[Batch]) -> None:
        """Store the arguments; nothing is computed yet, because the embedding may still change."""
        if not self.supports(teacher):
            raise ValueError("share_kv=first is not supported; run complete forward passes")
        self.teacher = teacher
        self.calibration = calibration
        self.layers = slice(0, 0)
        """Layers from the first to the last application of the current block."""
        self._streams: dict[bool, list[Tensor]] = {}

    @staticmethod
    def supports(model: MobileLLM) -> bool:
        """Whether blocks read only the residual stream, and no keys and values of other layers."""
        return model.config.share_kv != "first"

    @torch.no_grad()
    def move_to(self, block: int, model: MobileLLM) -> None:
        """Compute the residual streams before the given block.

        Args:
            block: index of a stored block.
            model: the model, in which all blocks before the given one are compressed.

        Raises:
            ValueError: the first application of the block is before that of the current block.
        """
        order = self.teacher.config.layer_order
        first, last = order.index(block), len(order) - 1 - order[::-1].index(block)
        if first < self.layers.start:
            raise ValueError(
                f"block {block} first runs at layer {first}, but the residual streams are those "
                f"before layer {self.layers.start}; compress the blocks in the order of their "
                "first application"
            )
        for one in (model, self.teacher):
            streams = self._streams.get(one is self.teacher)
            if streams is None:
                streams = [one.embed(b["input_ids"].to(_device(one))) for b in self.calibration]
            next_layers = slice(self.layers.start, first)
            self._streams[one is self.teacher] = [
                self._run(one, stream, next_layers, batch)
                for stream, batch in zip(streams, self.calibration, strict=True)
            ]
        self.layers = slice(first, last + 1)

    def __call__(self, model: MobileLLM, number: int) -> None:
        """Run all layers from the first to the last application of the block on one batch."""
        stream = self._streams[model is self.teacher][number]
        self._run(model, stream, self.layers, self.calibration[number])

    @staticmethod
    def _run(model: MobileLLM, stream: Tensor, layers: slice, batch: Batch) -> Tensor:
        mask = attention_mask_of({key: value.to(stream.device) for key, value in batch.items()})
        return model.run_layers(stream, layers, attention_mask=mask)


def _device(model: MobileLLM) -> torch.device:
    return next(model.parameters()).device
