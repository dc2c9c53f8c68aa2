"""Matrices with an adapter: a frozen matrix of any kind, and two narrow ones that are trained.

The layer computes W x + scale × B (A dropout(x)). W, of any other kind, is not trained. B is zero
at first, so that the layer starts as the frozen one. With DoRA, the rows of W + scale × B A are
rescaled to the lengths in `magnitude`, which is trained as well and starts as those of W.

Sources: see `AdapterSettings`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mobilellm.layers import describe_tensors, materialize, parse_layer_shape
from mobilellm.layers.adapter_settings import AdapterSettings
from mobilellm.layers.dense import DENSE
from mobilellm.layers.dropped_product import dropped_product
from mobilellm.layers.shape import LayerCost, LayerShape, Size
from mobilellm.layers.token_embedding import TokenEmbedding

BASE = "base."


@dataclass(frozen=True, kw_only=True)
class AdaptedShape(LayerShape):
    """A frozen matrix of another kind with an adapter.

    Raises:
        ValueError: a setting is out of range, or the frozen matrix has an adapter itself.
    """

    kind = "adapted"
    trains_alone = True

    adapted: AdapterSettings
    """The settings of the adapter, or its fields as a dictionary."""
    base: LayerShape = DENSE
    """The frozen matrix, or the output of its `to_dict`."""

    def __post_init__(self) -> None:
        """Convert dictionaries, and check that there is one adapter."""
        if isinstance(self.adapted, Mapping):
            object.__setattr__(self, "adapted", AdapterSettings(**self.adapted))
        if self.base is not DENSE:
            object.__setattr__(self, "base", parse_layer_shape(self.base))
        if isinstance(self.base, AdaptedShape):
            raise ValueError("an adapted matrix has an adapter already; merge it first")

    @property
    def draws_random_numbers(self) -> bool:
        """Whether the adapter has dropout."""
        return self.adapted.dropout > 0

    def check(self, size: Size) -> None:
        """Check the frozen matrix, and that the rank is at most the smaller side.

        Raises:
            ValueError: it is not.
        """
        self.base.check(size)
        if self.adapted.rank > min(size):
            raise ValueError(
                f"has an adapter of rank={self.adapted.rank}, but the weight is "
                f"{size[0]}x{size[1]}; use a rank of at most {min(size)}"
            )

    def cost(self, size: Size) -> LayerCost:
        """The frozen matrix and the adapter, of which only the adapter is trained."""
        frozen, own = self.base.cost(size), self.own_parameters(size)
        factors, rank = self.adapted.rank * sum(size), self.adapted.rank
        return replace(
            frozen,
            parameters=frozen.parameters + own,
            matrix_parameters=factors,
            flops=frozen.flops + 2 * factors + self.adapted.dora * size[0],
            row_parameters=frozen.row_parameters + rank * (1 + size[1]),
            frozen=frozen.parameters - frozen.packed,
            unpacked=frozen.unpacked + own,
        )

    def own_parameters(self, size: Size) -> int:
        """Number of parameters of the adapter alone."""
        return self.adapted.rank * sum(size) + self.adapted.dora * size[0]

    def empty(self, size: Size, *, bias: bool = False) -> "AdaptedLinear":
        """An `AdaptedLinear` with uninitialised parameters."""
        return AdaptedLinear(self.base.empty(size, bias=bias), self.adapted, size)

    def empty_embedding(self, size: Size) -> "AdaptedEmbedding":
        """An `AdaptedEmbedding` with uninitialised parameters.

        Raises:
            ValueError: the adapter is DoRA.
        """
        return AdaptedEmbedding(self.base.empty_embedding(size), self.adapted, size)

    def parameter_std(self, name: str, std: float) -> float:
        """As of the frozen matrix; that of B is 0, so that the adapter changes nothing at first."""
        if name.startswith(BASE):
            return self.base.parameter_std(name.removeprefix(BASE), std)
        return 0.0 if name == "lora_b" else std

    def saved_values(self, size: Size, *, has_own_input: bool) -> int:
        """The output of A; with DoRA the output before rescaling."""
        own = 2 * self.adapted.rank + self.adapted.dora * size[0]
        return own + self.base.saved_values(size, has_own_input=has_own_input)

    def saved_flags(self, size: Size) -> int:
        """With dropout, which values of the input of A were kept."""
        own = size[1] if self.draws_random_numbers else 0
        return own + self.base.saved_flags(size)

    def file_bits(self, size: Size, bits: int) -> int:
        """The frozen matrix in its own form, and the adapter in floats."""
        return self.base.file_bits(size, bits) + bits * self.own_parameters(size)

    def pack(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Convert the tensors of the frozen matrix as its own kind does."""
        frozen, own = _divided(tensors)
        return own | {f"{BASE}{key}": tensor for key, tensor in self.base.pack(frozen).items()}

    def unpack(self, tensors: Mapping[str, Tensor], size: Size) -> dict[str, Tensor]:
        """The inverse of `pack`.

        Raises:
            ValueError: the tensors of the frozen matrix are damaged.
        """
        frozen, own = _divided(tensors)
        unpacked = self.base.unpack(frozen, size)
        return own | {f"{BASE}{key}": tensor for key, tensor in unpacked.items()}

    @classmethod
    def describe_tensors(cls, tensors: Mapping[str, Tensor]) -> str | None:
        """Rank and kind of the adapter, and the storage of the frozen matrix."""
        if "lora_a" not in tensors:
            return None
        name = "DoRA" if "magnitude" in tensors else "LoRA"
        frozen = describe_tensors(_divided(tensors)[0])
        return f"{frozen} with {name} of rank {tensors['lora_a'].shape[0]}"

    @classmethod
    def summarize(cls, shapes: Sequence[Self], sizes: Sequence[Size]) -> str:
        """The adapter and the frozen matrix, or the number of different ones."""
        texts = list(dict.fromkeys(map(str, shapes)))
        return texts[0] if len(texts) == 1 else f"{len(texts)} forms, e.g. {texts[0]}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `parse_layer_shape` is the inverse."""
        frozen = {} if self.base is DENSE else {"base": self.base.to_dict()}
        return {"adapted": self.adapted.to_dict()} | frozen

    def short_text(self) -> str:
        """A form such as `NF4 g64 + rank 8`."""
        return f"{self.base.short_text()} + rank {self.adapted.rank}"

    def __str__(self) -> str:
        """A form such as `NF4 in groups of 64, with LoRA of rank 8, alpha 16`."""
        return f"{self.base}, with {self.adapted}"


class AdaptedLinear(nn.Module):
    """A frozen linear layer with an adapter, which is trained."""

    def __init__(self, base: nn.Module, settings: AdapterSettings, size: Size) -> None:
        """Freeze a layer, and allocate an adapter; `reset_adapter_` sets its values.

        Args:
            base: a layer of any kind without an adapter.
            settings: of the adapter.
            size: rows and columns (out, in) of the layer.
        """
        super().__init__()
        self.settings = settings
        self.out_features, self.in_features = size
        self.base = base.requires_grad_(False)
        self.lora_a = nn.Parameter(torch.empty(settings.rank, size[1]))
        self.lora_b = nn.Parameter(torch.empty(size[0], settings.rank))
        self.magnitude = nn.Parameter(torch.empty(size[0])) if settings.dora else None

    @property
    def shape(self) -> AdaptedShape:
        """The settings, and the shape of the frozen layer."""
        # `nn.Linear` and `TokenEmbedding` have no `shape`.
        return AdaptedShape(adapted=self.settings, base=getattr(self.base, "shape", DENSE))

    @torch.no_grad()
    def reset_adapter_(self, generator: torch.Generator | None = None) -> None:
        """Set the values with which training begins: the layer is the frozen one.

        A is drawn uniformly between ± 1 / sqrt(in), as PEFT does; B is zero.

        Args:
            generator: of the CPU; None: the global one.
        """
        bound = self.in_features**-0.5
        drawn = torch.empty(self.lora_a.shape, device="cpu")
        self.lora_a.copy_(drawn.uniform_(-bound, bound, generator=generator))
        self.lora_b.zero_()
        if self.magnitude is not None:
            self.magnitude.copy_(self._lengths())

    @property
    def bias(self) -> Tensor | None:
        """The bias of the frozen layer, (out,)."""
        return getattr(self.base, "bias", None)

    def forward(self, x: Float[Tensor, "*batch in"]) -> Float[Tensor, "*batch out"]:
        """Apply the layer: (..., in) -> (..., out)."""
        return self._adapted(self.base(x), x)

    def _adapted(self, y: Tensor, x: Tensor) -> Tensor:
        """The output (..., out), given that of the frozen layer."""
        narrow = dropped_product(x, self.lora_a, self.settings.dropout if self.training else 0.0)
        added = F.linear(narrow * self.settings.scale, self.lora_b)
        if self.magnitude is None:
            return y.add_(added)  # in place: no backward pass needs y
        # The length is regarded as a constant, which saves memory (DoRA, section 4.3).
        factor = (self.magnitude / self._lengths()).to(added.dtype)
        if self.bias is None:
            return (y + added) * factor
        return (y - self.bias + added) * factor + self.bias

    def delta(self) -> Float[Tensor, "out in"]:
        """What the adapter adds to the frozen weight before rows are rescaled: (out, in)."""
        return self.settings.scale * (self.lora_b @ self.lora_a)

    def materialize(self) -> Float[Tensor, "out in"]:
        """The dense weight (out, in) of frozen layer and adapter together."""
        weight = materialize(self.base)
        weight = weight + self.delta().to(weight.dtype)
        if self.magnitude is None:
            return weight
        return weight * (self.magnitude / self._lengths()).to(weight.dtype).unsqueeze(1)

    @torch.no_grad()
    def _lengths(self) -> Tensor:
        """The lengths (out,) of the rows of the weight, before they are rescaled."""
        with torch.autocast(self.lora_a.device.type, enabled=False):
            weight = materialize(self.base)
            weight = weight + self.delta().to(weight.dtype)
        lengths = torch.linalg.vector_norm(weight, dim=1)
        # A row of zeros, as pruning may leave, has no direction and stays zero.
        return lengths.clamp(min=torch.finfo(lengths.dtype).tiny)

    def extra_repr(self) -> str:
        """Sizes and settings, for `print(model)`."""
        return f"{self.in_features}, {self.out_features}, {self.settings}"


class AdaptedEmbedding(AdaptedLinear):
    """A frozen token embedding (vocab, hidden) with an adapter; also usable as a tied head.

    One adapter serves both ends of a tied table. Dropout applies to the input of the head only.
    """

    def __init__(self, base: nn.Module, settings: AdapterSettings, size: Size) -> None:
        """Freeze a table, and allocate an adapter; arguments as of `AdaptedLinear`.

        Raises:
            ValueError: the adapter is DoRA.
        """
        if settings.dora:
            raise ValueError("a token embedding cannot have dora=true; select other matrices")
        super().__init__(base, settings, size)

    def forward(self, input_ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch hidden"]:
        """Look up rows of the table: token ids (...) -> (..., hidden)."""
        rows = F.embedding(input_ids, self.lora_b) * self.settings.scale
        return self.base(input_ids) + rows @ self.lora_a

    def unembed(self, hidden: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch vocab"]:
        """Multiply by every row of the table: (..., hidden) -> logits (..., vocab)."""
        return self._adapted(self.base.unembed(hidden), hidden)  # pyright: ignore[reportCallIssue]


def merged(layer: AdaptedLinear) -> nn.Module:
    """A dense layer, `nn.Linear` or `TokenEmbedding`, with the weight of an adapted one."""
    weight = layer.materialize().detach()
    if isinstance(layer, AdaptedEmbedding):
        table = TokenEmbedding(*weight.shape)
        table.weight = nn.Parameter(weight)
        return table
    dense = nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None, device="meta")
    dense.weight = nn.Parameter(weight)
    if layer.bias is not None:
        dense.bias = nn.Parameter(layer.bias.detach().clone())
    return dense


def _divided(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The tensors of the frozen matrix, by their names in it, and those of the adapter."""
    frozen = {k.removeprefix(BASE): t for k, t in tensors.items() if k.startswith(BASE)}
    return frozen, {k: t for k, t in tensors.items() if not k.startswith(BASE)}
