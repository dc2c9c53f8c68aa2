"""The two kinds of teachers: a model in memory, and a logit store."""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mobilellm.distillation.logit_store.packing import Packing
from mobilellm.distillation.losses.loss import Structure
from mobilellm.distillation.losses.targets import Target, TopK, top_k_of
from mobilellm.models.attention_mask import attention_mask_of
from mobilellm.models.config import ModelConfig

Batch = Mapping[str, Tensor]
PRECISIONS = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class TeacherOutput:
    """The output of a teacher for one micro-batch."""

    target: Callable[[slice, float], Target]
    """(range among the micro-batch's tokens, temperature) -> logits or `TopK` of these tokens."""
    logits: Callable[[slice], Tensor] | None = None
    """(range) -> all logits of these tokens; None if only the top k are known."""
    captured: Mapping[str, list[Tensor]] = field(default_factory=dict)
    """See `ModelOutput.captured`."""


class Teacher(Protocol):
    """A frozen model in evaluation mode, or its stored output; checkpoints do not contain it."""

    structure: Structure

    def run(self, batch: Batch, capture: Collection[str] = ()) -> TeacherOutput:
        """Run one micro-batch.

        Args:
            batch: `input_ids` (batch, seq), and for a logit store `window` (batch,).
            capture: names of tensors to capture, as for `MobileLLM`.
        """
        ...

    def to(self, device: torch.device) -> None:
        """Move the teacher to the device of the student."""
        ...


def structure_of(config: ModelConfig) -> Structure:
    """The structure of a model of this project."""
    heads = [shape.num_attention_heads for shape in config.block_shapes]
    return Structure(
        num_layers=config.num_layers,
        hidden_size=config.hidden_size,
        num_heads=tuple(heads[index] for index in config.layer_order),
        vocab_size=config.vocab_size,
    )


class ModelTeacher:
    """A teacher in memory, which runs during the training of the student.

    Args:
        model: called like a `MobileLLM`; its parameters are frozen.
        structure: structure of the model.
        precision: `auto` (weights as given, matrix products as in training), or the number type of
            weights and matrix products: `float32`, `bfloat16` or `float16`.
        top_k: provide only the k most likely tokens; None: all logits.
        rounding: with `top_k`, round probabilities as a logit store of this precision does.

    Raises:
        ValueError: the precision is unknown, `rounding` is given without `top_k`, or k is larger
            than the vocabulary.
    """

    def __init__(
        self,
        model: nn.Module,
        structure: Structure,
        *,
        precision: str = "auto",
        top_k: int | None = None,
        rounding: str | None = None,
    ) -> None:
        """Freeze the model."""
        check_teacher_options(precision, top_k, rounding, structure.vocab_size)
        self.structure = structure
        self.model = model.requires_grad_(False).eval()
        self.precision = precision
        self.top_k = top_k
        self.packing = (
            None
            if rounding is None or top_k is None
            else Packing(vocab_size=structure.vocab_size, k=top_k, precision=rounding)
        )
        if precision != "auto":
            self.model.to(getattr(torch, precision))

    def to(self, device: torch.device) -> None:
        """Move the model."""
        self.model.to(device)

    @torch.no_grad()
    def run(self, batch: Batch, capture: Collection[str] = ()) -> TeacherOutput:
        """Run one forward pass; the logits of a chunk are computed when they are requested."""
        with self._own_precision(batch["input_ids"].device.type):
            output = self.model(
                batch["input_ids"],
                attention_mask=attention_mask_of(dict(batch)),
                logits=False,
                capture=capture,
            )
        hidden = output.hidden.flatten(0, 1)
        made: dict[tuple[int, int], Tensor] = {}

        @torch.no_grad()
        def logits(place: slice) -> Tensor:
            key = (place.start, place.stop)
            if key not in made:
                # The losses of one chunk share its logits; those of other chunks are dropped.
                made.clear()
                with self._own_precision(hidden.device.type):
                    made[key] = self.model.unembed(hidden[place])  # pyright: ignore
            return made[key]

        def target(place: slice, temperature: float) -> Target:
            return self._visible_target(logits(place), temperature)

        return TeacherOutput(target, logits if self.top_k is None else None, output.captured)

    @torch.no_grad()
    def _visible_target(self, logits: Tensor, temperature: float) -> Target:
        """The part of the logits that the student may use."""
        if self.top_k is None:
            return logits
        top = top_k_of(logits, self.top_k, temperature=temperature)
        return top if self.packing is None else self.packing.rounded(top)

    def _own_precision(self, device: str) -> AbstractContextManager[Any]:
        if self.precision == "auto":
            return nullcontext()
        return torch.autocast(device, enabled=False)


class StoredTeacher:
    """A logit store as a teacher: top-k probabilities without a model.

    Args:
        store: a `LogitStore`.
    """

    def __init__(self, store: Any) -> None:
        """Keep the store; no probabilities are read yet."""
        self.store = store
        self.structure = Structure(
            num_layers=0,
            hidden_size=0,
            num_heads=(),
            vocab_size=store.vocab_size,
            captures=(),
            temperature=store.temperature,
            is_sampled=store.inputs.is_sampled,
        )

    def to(self, device: torch.device) -> None:
        """Do nothing: the store remains on disk."""

    def run(self, batch: Batch, capture: Collection[str] = ()) -> TeacherOutput:
        """Read the windows of the batch.

        Raises:
            ValueError: captures are requested, which a logit store does not have.
        """
        if capture:
            raise ValueError(
                f"a logit store has no {', '.join(capture)}; use losses on logits, or a teacher "
                "in memory"
            )
        stored = self.store.read(batch["window"].cpu())
        device = batch["input_ids"].device
        top = TopK(
            _copied(stored.indices.flatten(0, 1), device),
            _copied(stored.log_probabilities.flatten(0, 1), device),
            stored.temperature,
            stored.is_sample,
        )
        return TeacherOutput(lambda place, _: top.rows(place))


def _copied(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to the device, without waiting for the device if it is a GPU."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=device.type not in ("cpu", "mps"))


def check_teacher_options(
    precision: str, top_k: int | None, rounding: str | None, vocab_size: int | None = None
) -> None:
    """Check the options of a teacher in memory.

    Raises:
        ValueError: the precision is unknown, `rounding` is given without `top_k`, or k is out of
            range.
    """
    if precision not in PRECISIONS:
        raise ValueError(
            f"teacher_precision={precision!r} is not known; use one of {', '.join(PRECISIONS)}"
        )
    if top_k is None:
        if rounding is not None:
            raise ValueError(
                f"rounding={rounding} rounds the probabilities of the top k tokens; set top_k too"
            )
        return
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise ValueError(f"top_k={top_k!r} must be a whole number of at least 1")
    if vocab_size is not None:
        if top_k > vocab_size:
            raise ValueError(f"top_k={top_k} must be at most vocab_size={vocab_size}; lower top_k")
        if rounding is not None:
            Packing(vocab_size=vocab_size, k=top_k, precision=rounding)
