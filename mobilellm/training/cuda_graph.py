"""Forward and backward pass of a micro-batch as one CUDA graph.

A deep and thin model consists of many small kernels, and the host needs longer to launch them than
the GPU to run them. A graph launches all of them at once. It repeats the recorded kernels on the
same memory, so that shapes, weights and gradients must stay where they are.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from mobilellm.losses.micro_batch import StepCounts

Batch = dict[str, Tensor]
Pass = Callable[[Batch, StepCounts, Tensor], dict[str, Tensor]]

SCALE = "scale of the loss"


class GraphedPass:
    """A function that computes gradients, recorded as a CUDA graph after its first calls.

    The first calls run it as it is, because compilation and the choice of kernels cannot be
    recorded. Micro-batches of other shapes than the recorded one run as they are, too.

    Args:
        function: maps a micro-batch, the counts of the step and the scale of the loss to values,
            and adds to the gradients of the parameters. It must not wait for the device.
    """

    WARM_UP_CALLS = 3

    def __init__(self, function: Pass) -> None:
        """Keep the function; nothing is recorded yet."""
        self._function = function
        self._calls = 0
        self._stream = torch.cuda.Stream()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._inputs: Batch = {}
        self._values: dict[str, Tensor] = {}

    def __call__(self, batch: Batch, counts: StepCounts, scale: Tensor) -> dict[str, Tensor]:
        """Compute gradients and values; the values are overwritten by the next call."""
        counted = {f"count of {name}": value for name, value in counts._asdict().items()}
        inputs = {**batch, **counted, SCALE: scale}
        if self._graph is None:
            if self._calls < self.WARM_UP_CALLS:
                self._calls += 1
                return self._run(batch, counts, scale)
            self._record(inputs)
        if _shapes(inputs) != _shapes(self._inputs):
            return self._run(batch, counts, scale)
        for name, value in inputs.items():
            self._inputs[name].copy_(value, non_blocking=True)
        assert self._graph is not None  # noqa: S101
        self._graph.replay()
        return self._values

    def _run(self, batch: Batch, counts: StepCounts, scale: Tensor) -> dict[str, Tensor]:
        """Run the function on the stream on which it is recorded, as autograd requires."""
        current = torch.cuda.current_stream()
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            values = self._function(batch, counts, scale)
        current.wait_stream(self._stream)
        return values

    def _record(self, inputs: Batch) -> None:
        """Record the function on copies of the inputs; the gradients do not change."""
        self._inputs = {name: value.clone() for name, value in inputs.items()}
        batch = dict(self._inputs)
        counts = StepCounts(*(batch.pop(f"count of {name}") for name in StepCounts._fields))
        scale = batch.pop(SCALE)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._values = self._function(batch, counts, scale)
        self._graph = graph


def _shapes(inputs: Batch) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (value.shape, value.dtype) for name, value in inputs.items()}
