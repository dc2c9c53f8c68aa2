"""Second moments of the inputs of a model's matrices on calibration text.

If a block runs several times per forward pass, its moments are means over all its applications.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mobilellm.accounting.parameters import applications
from mobilellm.compression.algorithms.metric import Metric
from mobilellm.compression.recipe import Batch
from mobilellm.compression.token_weights import TokenWeights
from mobilellm.models import MobileLLM
from mobilellm.models.attention_mask import attention_mask_of

TABLES = ("embedding", "head")
# Weight of the look-up relative to that of the logits, for a table that is both. An error in the
# embedding of a token disturbs all later tokens.
LOOK_UP = 3.0


@dataclass(frozen=True)
class Moments:
    """Second moments of the inputs of one matrix, as means over tokens in float64."""

    inputs: Tensor
    """E[x xᵀ], (in, in)."""
    tokens: int
    """Number of input vectors, over all applications of the matrix."""
    cross: Tensor | None = None
    """E[t xᵀ], (in, in), where t is the input of the same matrix in the teacher; None without a
    teacher."""


@torch.no_grad()
def gather_moments(
    model: MobileLLM,
    calibration: Sequence[Batch],
    names: Sequence[str],
    *,
    teacher: MobileLLM | None = None,
    run: Callable[[MobileLLM, int], object] | None = None,
) -> dict[str, Moments]:
    """Moments of the inputs of the named matrices.

    For the token embedding and the head the input is the final hidden state, from which the head
    computes the logits.

    Args:
        model: the model whose inputs are measured.
        calibration: batches of `input_ids` (batch, seq), with or without `document_ids`.
        names: keys of `ModelConfig.matrix_sizes`.
        teacher: a model with the same layers, which runs on the same text for `cross`.
        run: function of a model and the index of a batch that runs all applications of the named
            matrices; None: complete forward passes.

    Returns:
        By name; matrices with the same inputs share one object.

    Raises:
        ValueError: there is no batch, or the inputs are not finite.
    """
    sums: dict[str, _MomentSum] = {}
    first_with: dict[str, str] = {}

    def run_whole(model: MobileLLM, number: int) -> None:
        device = next(model.parameters()).device
        batch = {key: value.to(device) for key, value in calibration[number].items()}
        model(batch["input_ids"], attention_mask=attention_mask_of(batch), logits=False)

    for number in range(len(calibration)):
        inputs = _inputs_of(model, number, names, run or run_whole)
        teacher_inputs = (
            None if teacher is None else _inputs_of(teacher, number, names, run or run_whole)
        )
        if not sums:
            first_with = _first_with_input(inputs)
            sums = {name: _MomentSum() for name in first_with.values()}
        for name, total in sums.items():
            for use, x in enumerate(inputs[name]):
                total.add(x, None if teacher_inputs is None else teacher_inputs[name][use])
    if not sums and names:
        raise ValueError("the calibration set is empty; give at least one batch")
    moments = {name: total.mean() for name, total in sums.items()}
    for name, moment in moments.items():
        if not moment.inputs.isfinite().all():
            raise ValueError(
                f"the inputs of {name} are not finite (NaN or overflow) on the calibration text; "
                "compress a model whose loss on this text is finite, and use float32 if the model "
                "is in float16"
            )
    return {name: moments[first_with[name]] for name in names}


def check_tokens(name: str, moments: Moments) -> None:
    """Check that there are enough tokens for a second moment of full rank.

    Raises:
        ValueError: there are fewer tokens than the matrix has inputs.
    """
    size = moments.inputs.shape[0]
    if moments.tokens < size:
        raise ValueError(
            f"{moments.tokens} calibration tokens are too few for {name}, whose input has {size} "
            f"entries: its second moment does not have full rank; give at least {size} "
            "(calibration_tokens=…), preferably ten times as many"
        )


class _MomentSum:
    """Running sums of outer products of the inputs of one matrix."""

    def __init__(self) -> None:
        self.inputs: Tensor | None = None
        self.cross: Tensor | None = None
        self.tokens = 0

    def add(self, x: Tensor, t: Tensor | None) -> None:
        own = x.double()
        self.inputs = _sum(self.inputs, own.T @ own)
        self.tokens += x.shape[0]
        if t is not None:
            self.cross = _sum(self.cross, t.double().T @ own)

    def mean(self) -> Moments:
        if self.inputs is None:
            raise ValueError("the calibration set is empty; give at least one batch")
        cross = None if self.cross is None else self.cross.div_(self.tokens)
        return Moments(self.inputs.div_(self.tokens), self.tokens, cross)


def _sum(total: Tensor | None, more: Tensor) -> Tensor:
    return more if total is None else total.add_(more)


def _first_with_input(inputs: Mapping[str, Sequence[Tensor]]) -> dict[str, str]:
    """For each name the first name with the same inputs, which are the same objects."""
    first: dict[tuple[int, ...], str] = {}
    return {name: first.setdefault(tuple(map(id, own)), name) for name, own in inputs.items()}


def _inputs_of(
    model: MobileLLM,
    number: int,
    names: Sequence[str],
    run: Callable[[MobileLLM, int], object],
) -> dict[str, list[Tensor]]:
    """Inputs (tokens, in) of each named matrix, one per application.

    Matrices with the same input share one tensor object. The forward pass ends as soon as all
    inputs are known.
    """
    uses = applications(model.config) | dict.fromkeys(TABLES, 1)
    flat: dict[int, tuple[Tensor, Tensor]] = {}
    inputs: dict[str, list[Tensor]] = {name: [] for name in names}

    def keep(name: str, x: Tensor) -> None:
        if id(x) not in flat:
            # A reference to x is kept, because otherwise another tensor could get the same id.
            flat[id(x)] = (x, x.flatten(0, -2))
        inputs[name].append(flat[id(x)][1])
        if all(len(inputs[one]) == uses[one] for one in names):
            raise _AllKnown

    with _recording_inputs(model, names, keep), suppress(_AllKnown):
        run(model, number)
    return inputs


class _AllKnown(Exception):
    """Ends a forward pass."""


@contextmanager
def _recording_inputs(model: MobileLLM, names: Sequence[str], keep) -> Iterator[None]:
    hooks, training = [], model.training
    model.eval()
    for name in names:
        if name in TABLES:
            hooks.append(
                model.norm.register_forward_hook(lambda _, __, out, name=name: keep(name, out))
            )
        else:
            module: nn.Module = model.get_submodule(name)
            hooks.append(
                module.register_forward_pre_hook(lambda _, args, name=name: keep(name, args[0]))
            )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        model.train(training)


def metrics_of(moments: Mapping[str, Moments], weights: TokenWeights) -> dict[str, Metric]:
    """The metric of each matrix, given its moments; matrices with the same moments share one."""
    made: dict[int, Metric] = {}
    found: dict[str, Metric] = {}
    for name, own in moments.items():
        if id(own) not in made:
            made[id(own)] = metric_of(name, own, weights)
        found[name] = made[id(own)]
    return found


def metric_of(name: str, moments: Moments, weights: TokenWeights) -> Metric:
    """The metric of one matrix: the error of its outputs.

    The rows of an embedding are weighed by the frequency of their tokens, and those of a head by
    the root of the probability with which they are predicted, with the moment of the hidden states.
    A table that is both has the row weights of a head, and the sum of the moment, scaled to a mean
    diagonal of 1, and of `LOOK_UP` times the identity.
    """
    if name not in TABLES:
        check_tokens(name, moments)
        return Metric(moments.inputs)
    if name == "embedding" and not weights.model.config.tie_word_embeddings:
        return Metric(rows=weights.frequency.to(moments.inputs.device))
    check_tokens(name, moments)
    if name == "head":
        return Metric(moments.inputs, weights.predicted)
    return Metric(tied_table_moment(moments), weights.predicted)


def tied_table_moment(moments: Moments) -> Tensor:
    """The moment (hidden, hidden) of a table that is read as embedding and as head."""
    plain = torch.eye(len(moments.inputs)).to(moments.inputs)
    return moments.inputs / moments.inputs.diagonal().mean() + LOOK_UP * plain
