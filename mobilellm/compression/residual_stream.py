"""The residual stream before a block, stored so that earlier blocks need not run again.

A method that compresses a model block by block runs each block several times. The blocks before it
are final by then, and hence the residual stream that it reads as well.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mobilellm.compression.recipe import Batch
from mobilellm.models import MobileLLM
from mobilellm.models.attention_mask import attention_mask_of


class ResidualStream:
    """Residual streams of one model on calibration text, before the first use of a block.

    Blocks must be visited in the order of their first application. The stored streams have
    tokens × hidden_size numbers.

    Args:
        calibration: batches of `input_ids` (batch, seq), with or without `document_ids`.
    """

    def __init__(self, calibration: Sequence[Batch]) -> None:
        """Store the text; nothing is computed yet, because the embedding may still change."""
        self.calibration = calibration
        self.layers = slice(0, 0)
        """Layers from the first to the last application of the current block."""
        self._streams: list[Tensor] = []

    @staticmethod
    def supports(model: MobileLLM) -> bool:
        """Whether blocks read only the residual stream, and no keys and values of other layers."""
        return model.config.share_kv != "first"

    @torch.no_grad()
    def move_to(self, block: int, model: MobileLLM) -> None:
        """Compute the residual streams before the given block.

        Args:
            block: index of a stored block.
            model: the model, in which all blocks before the given one are final.

        Raises:
            ValueError: the first application of the block is before that of the current block, or
                the model shares keys and values between applications of a block, which then reads
                more than the residual stream.
        """
        if not self.supports(model):
            raise ValueError("share_kv=first is not supported; run complete forward passes")
        order = model.config.layer_order
        first, last = order.index(block), len(order) - 1 - order[::-1].index(block)
        if first < self.layers.start:
            raise ValueError(
                f"block {block} first runs at layer {first}, but the residual streams are those "
                f"before layer {self.layers.start}; compress the blocks in the order of their "
                "first application"
            )
        device = next(model.parameters()).device
        if not self._streams:
            self._streams = [model.embed(b["input_ids"].to(device)) for b in self.calibration]
        passed = slice(self.layers.start, first)
        self._streams = [self._run(model, number, passed) for number in range(len(self._streams))]
        self.layers = slice(first, last + 1)

    def inputs(self, number: int) -> Tensor:
        """The stored stream (batch, seq, hidden) of one batch."""
        return self._streams[number]

    def run(self, model: MobileLLM, number: int) -> Tensor:
        """Run all layers from the first to the last application of the block on one batch.

        Returns:
            Residual stream (batch, seq, hidden) after them.
        """
        return self._run(model, number, self.layers)

    def _run(self, model: MobileLLM, number: int, layers: slice) -> Tensor:
        stream, batch = self._streams[number], self.calibration[number]
        mask = attention_mask_of({key: value.to(stream.device) for key, value in batch.items()})
        return model.run_layers(stream, layers, attention_mask=mask)


class PairedStreams:
    """Residual streams of a model that is being compressed, and of its teacher, on the same text.

    Args:
        calibration: batches of `input_ids` (batch, seq), with or without `document_ids`.
        model: whose blocks are compressed.
    """

    def __init__(self, calibration: Sequence[Batch], model: MobileLLM) -> None:
        """Store the text; nothing is computed yet."""
        self.calibration, self._supported = calibration, ResidualStream.supports(model)
        self._own, self._teacher = ResidualStream(calibration), ResidualStream(calibration)

    def at(
        self, block: str, model: MobileLLM, teacher: MobileLLM | None = None
    ) -> Callable[[MobileLLM, int], Tensor] | None:
        """A function that runs a block, for `gather_moments`; None: complete forward passes.

        The blocks must be given in the order of their first application.

        Args:
            block: name of the block, or of a table.
            model: the model, in which all blocks before this one are final.
            teacher: the dense model.
        """
        if not block.startswith("blocks.") or not self._supported:
            return None
        index = int(block.split(".")[1])
        self._own.move_to(index, model)
        if teacher is not None:
            self._teacher.move_to(index, teacher)
        return lambda one, number: (self._teacher if one is teacher else self._own).run(one, number)
