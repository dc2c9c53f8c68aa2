"""Adds adapters to the matrices of a model, and quantizes the matrices below them if asked to."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from mobilellm.formats.peft import read_peft, read_peft_settings
from mobilellm.layers import DENSE, LayerShape, materialize
from mobilellm.layers.adapted import AdaptedEmbedding, AdaptedLinear, AdaptedShape
from mobilellm.layers.adapter_settings import ALPHA, DROPOUT, RANK, AdapterSettings
from mobilellm.layers.number_format import NumberFormat
from mobilellm.layers.quantized import QuantizedLinear, QuantizedShape
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.matrix_patterns import matching_matrices
from mobilellm.paths import user_path
from mobilellm.ranges import check_fields

DEFAULT_TARGETS = ("blocks.*",)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """Which matrices of a model get an adapter, and how. Nothing else of the model is trained.

    A stored block that is applied at several layers has one adapter per matrix, which all of them
    use; a tied token table has one at both ends.

    Raises:
        ValueError: a value is out of range, or the number format is not possible.

    Sources: see `AdapterSettings`; quantized matrices below adapters: Dettmers et al. 2023, QLoRA,
    arXiv:2305.14314.
    """

    rank: int
    """Rows of A and columns of B."""
    alpha: float
    """Numerator of the scale, alpha / rank."""
    targets: Sequence[str] = DEFAULT_TARGETS
    """Shell-style wildcards for the names of the matrices (`ModelConfig.matrix_sizes`)."""
    dropout: float = 0.0
    """Share of the inputs of A that is set to zero in training."""
    rslora: bool = False
    """Whether the scale is alpha / sqrt(rank)."""
    dora: bool = False
    """Whether the lengths of rows are trained as well."""
    quantized: Mapping[str, Any] | None = None
    """Number format to which the dense matrices of all blocks are rounded before training: the
    fields of a `NumberFormat`; None: they stay as they are."""
    initial: str | None = None
    """Folder of an adapter with the same settings, written by a run or by PEFT, with whose values
    training begins; None: it begins with the model as it is."""

    def __post_init__(self) -> None:
        """Check the values."""
        check_fields(self, rank=RANK, alpha=ALPHA, dropout=DROPOUT)
        if not self.targets:
            raise ValueError("targets is empty; give patterns such as blocks.*.attention.*")
        if self.quantized is not None:
            try:
                NumberFormat(**self.quantized)
            except (TypeError, ValueError) as error:
                raise ValueError(f"quantized: {error}") from error

    @property
    def settings(self) -> AdapterSettings:
        """The settings of each adapter."""
        return AdapterSettings(
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.dropout,
            rslora=self.rslora,
            dora=self.dora,
        )

    def configured(self, config: ModelConfig) -> ModelConfig:
        """The configuration of the model with adapters.

        Raises:
            ValueError: the model has adapters already, a pattern matches no matrix, a rank is
                larger than a matrix, a token embedding would get DoRA, matrices cannot be
                quantized, or the initial adapter has other settings.
            FileNotFoundError: there is no initial adapter.
        """
        _check_unadapted(config)
        self._check_initial()
        shapes = dict(config.layer_shapes) | self._quantized_shapes(config)
        for name in self.matrices(config):
            if self.dora and name == "embedding":
                raise ValueError(
                    "dora=true cannot be used for the token embedding, of which only some rows are "
                    "read; use dora=false, or targets without embedding"
                )
            shape = AdaptedShape(adapted=self.settings, base=shapes.get(name, DENSE))
            _check(name, shape, config)
            shapes[name] = shape
        return replace(config, compressed_layers=shapes)

    def matrices(self, config: ModelConfig) -> tuple[str, ...]:
        """Names of the matrices that get an adapter, in the order of the model.

        Raises:
            ValueError: a pattern matches no matrix.
        """
        both_ends = "the adapter then changes both ends"
        found = {
            name
            for pattern in self.targets
            for name in matching_matrices(config, pattern, setting="targets", both_ends=both_ends)
        }
        return tuple(name for name in config.matrix_sizes if name in found)

    def adapt(self, model: MobileLLM, *, seed: int) -> MobileLLM:
        """Add adapters to `model`, freeze everything else, and return it.

        Args:
            model: is changed; layer by layer, so that little more than the model is in memory.
            seed: of the initial adapters.

        Raises:
            ValueError: see `configured`.
        """
        config = self.configured(model.config)
        generator = torch.Generator("cpu").manual_seed(seed)
        model.requires_grad_(False)
        for name in self._quantized_shapes(model.config):
            model.set_submodule(name, self._rounded(model.get_submodule(name)))
        for name in self.matrices(model.config):
            base, size = model.get_submodule(name), config.matrix_sizes[name]
            kind = AdaptedEmbedding if name == "embedding" else AdaptedLinear
            like = model.norm.weight
            with torch.device(like.device):
                layer = kind(base, self.settings, size)
            layer.to(like.dtype).reset_adapter_(generator)
            model.set_submodule(name, layer.train(model.training))
        if self.initial is not None:
            self._load_initial(model, self.initial)
        model.set_config(config)
        return model

    def describe(self, config: ModelConfig) -> str:
        """One line about what is trained, for the start of a run.

        Args:
            config: of the model without adapters.
        """
        names, adapted = self.matrices(config), self.configured(config)
        own = sum(_own_parameters(adapted, name) for name in names)
        kinds = dict.fromkeys(name.rpartition(".")[2] for name in names)
        line = f"{self.settings} on {len(names)} matrices ({', '.join(kinds)}): {own:,} parameters"
        if "embedding" in names and config.tie_word_embeddings:
            line += "; that of the embedding changes the tied output head as well"
        return line

    def _check_initial(self) -> None:
        """Check that the initial adapter has these settings; its dropout may be another.

        Raises:
            ValueError, FileNotFoundError: see `configured`.
        """
        if self.initial is None:
            return
        saved = replace(read_peft_settings(user_path(self.initial)), dropout=self.dropout)
        if saved != self.settings:
            raise ValueError(
                f"initial={self.initial} is {saved}, but the settings are those of "
                f"{self.settings}; use rank={saved.rank} alpha={saved.alpha:g} "
                f"rslora={saved.rslora} dora={saved.dora}"
            )

    @torch.no_grad()
    def _load_initial(self, model: MobileLLM, folder: str) -> None:
        """Copy the values of a saved adapter into the model.

        Raises:
            ValueError: it is for other matrices, or of another size.
        """
        saved, names = read_peft(user_path(folder), model.config), self.matrices(model.config)
        if other := sorted(saved.keys() ^ set(names)):
            place = "the initial adapter" if other[0] in saved else "targets"
            raise ValueError(f"initial={folder}: only {place} has {other[0]}; set targets as there")
        for name in names:
            layer = model.get_submodule(name)
            for part, tensor in saved[name].items():
                own = getattr(layer, part)
                if own is None or own.shape != tensor.shape:
                    raise ValueError(f"initial={folder}: {part} of {name} has another size")
                own.copy_(tensor)

    def _quantized_shapes(self, config: ModelConfig) -> dict[str, LayerShape]:
        """The shapes of the matrices that are quantized before they get adapters.

        Raises:
            ValueError: a matrix is not dense, or the number format does not fit its size.
        """
        if self.quantized is None:
            return {}
        shape = QuantizedShape(quantized=NumberFormat(**self.quantized))
        names = [name for name in config.matrix_sizes if name.startswith("blocks.")]
        for name in names:
            if (found := config.layer_shape(name)) is not None:
                raise ValueError(
                    f"quantized rounds dense matrices, but {name} is {found.kind}; use "
                    "quantized=null, which adapts it as it is"
                )
            _check(name, shape, config)
        return dict.fromkeys(names, shape)

    def _rounded(self, layer: nn.Module) -> QuantizedLinear:
        number_format = NumberFormat(**(self.quantized or {}))  # pyright: ignore[reportCallIssue]
        return QuantizedLinear.nearest(materialize(layer), number_format)


def _check_unadapted(config: ModelConfig) -> None:
    adapted = [name for name, shape in config.layer_shapes.items() if shape.trains_alone]
    if adapted:
        raise ValueError(
            f"{len(adapted)} matrices of the model have an adapter already, e.g. {adapted[0]}; "
            "start from the model without it"
        )


def _check(name: str, shape: LayerShape, config: ModelConfig) -> None:
    try:
        shape.check(config.matrix_sizes[name])
    except ValueError as error:
        raise ValueError(f"{name} {error}") from error


def _own_parameters(config: ModelConfig, name: str) -> int:
    shape: Any = config.layer_shape(name)
    return shape.own_parameters(config.matrix_sizes[name])
