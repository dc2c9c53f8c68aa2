"""The architecture of a model. Quantities that can be derived are properties, not fields."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from mobilellm.layers import LayerShape, parse_layer_shape
from mobilellm.models.checks import check_choice, check_positive, listed
from mobilellm.models.rotary_scaling import RotaryScaling, parse_rotary_scaling
from mobilellm.models.sharing import SHARING_SCHEMES, order_of_layers
from mobilellm.ranges import MAX_INDEX, Range, check_fields

MULTIPLIERS = ("residual_multiplier", "attention_multiplier", "output_multiplier")
FEED_FORWARDS = ("swiglu", "relu")
QK_NORMS = ("none", "l2", "rms")
KV_POLICIES = ("own", "first")

PerBlock = int | Sequence[int]

BLOCKS, WIDTH = Range(at_least=1, cap=10_000), Range(at_least=1, cap=2**24)
INDEX = Range(at_least=0, cap=MAX_INDEX)
MULTIPLIER = Range(above=0, cap=1e6, remedy="1 changes nothing")
RANGES = {
    "vocab_size": Range(at_least=1, cap=MAX_INDEX),
    "hidden_size": WIDTH, "intermediate_size": WIDTH, "head_dim": WIDTH,
    "num_attention_heads": WIDTH, "num_key_value_heads": WIDTH,
    "num_blocks": BLOCKS, "block_repeats": BLOCKS,
    "max_position_embeddings": Range(at_least=1, cap=MAX_INDEX),
    "rope_theta": Range(above=0, cap=1e15),
    "rms_norm_eps": Range(above=0, at_most=1, remedy="1e-5 is common"),
    "eos_token_id": INDEX, "bos_token_id": INDEX,
    "residual_multiplier": MULTIPLIER, "attention_multiplier": MULTIPLIER,
    "output_multiplier": MULTIPLIER,
}  # fmt: skip


@dataclass(frozen=True)
class BlockShape:
    """The sizes of one stored block."""

    num_attention_heads: int
    num_key_value_heads: int
    intermediate_size: int


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Architecture of one model. The names of the fields follow Hugging Face's `LlamaConfig`.

    The model stores `num_blocks` blocks and runs `num_layers` layers, in the order given by the
    sharing scheme. Without sharing, both equal `num_hidden_layers` of Hugging Face.

    Raises:
        ValueError: a field has an invalid value, or fields contradict each other.
    """

    vocab_size: int
    """Number of tokens in the vocabulary: the rows of the token embedding."""
    hidden_size: int
    """Width of the residual stream."""
    intermediate_size: PerBlock
    """Width of the feed-forward layers: one value, or one value per block."""
    num_blocks: int
    """Number of stored blocks."""
    num_attention_heads: PerBlock
    """Number of query heads: one value, or one value per block."""
    num_key_value_heads: PerBlock | None = None
    """Number of key-value heads, like `num_attention_heads`, which is the default."""
    head_dim: int | None = None
    """Width of one head, an even number; default: hidden_size / num_attention_heads."""
    block_repeats: int = 1
    """Number of applications of each block; a scheme with unequal use may define it differently."""
    layer_sharing: str = "immediate"
    """Name of the sharing scheme: a key of `SHARING_SCHEMES`, e.g. `immediate`."""
    share_kv: str = "own"
    """`own`: every application of a block computes its own keys and values; `first`: all
    applications of a block use those of its first application."""
    tie_word_embeddings: bool = True
    """Whether the output head uses the weights of the token embedding."""
    max_position_embeddings: int = 2048
    """Context length in tokens."""
    rope_theta: float = 1e4
    """Base of the rotary frequencies."""
    rope_scaling: Mapping[str, Any] | RotaryScaling | None = None
    """Scaling of the rotary frequencies for a longer context; None: there is none."""
    rms_norm_eps: float = 1e-5
    """Constant that is added to the mean square in every RMSNorm."""
    feed_forward: str = "swiglu"
    """`swiglu` (gate, up, down), or `relu` (up, down), the baseline of the MobileLLM paper."""
    qk_norm: str = "none"
    """Normalisation of queries and keys: `none`; `l2`: RMS norm without a weight, as in
    MobileLLM-R1; `rms`: RMS norm with one weight per dimension of a head."""
    eos_token_id: int = 2
    """Token that ends a document."""
    bos_token_id: int = 1
    """Token that begins a prompt."""
    residual_multiplier: float = 1.0
    """Factor of what each attention and feed-forward layer adds to the residual stream."""
    attention_multiplier: float = 1.0
    """Factor of the attention scores, in addition to 1 / sqrt(head_dim)."""
    output_multiplier: float = 1.0
    """Factor of the logits."""
    compressed_layers: Mapping[str, Any] | Sequence[tuple[str, LayerShape]] = ()
    """Matrices that are not dense: names (keys of `matrix_sizes`) mapped to `LayerShape` or to the
    output of its `to_dict`. It is converted to sorted pairs."""

    def __post_init__(self) -> None:
        """Set defaults that depend on other fields, and check every field."""
        for name in ("intermediate_size", "num_attention_heads", "num_key_value_heads"):
            value = getattr(self, name)
            if isinstance(value, Sequence) and not isinstance(value, str):
                object.__setattr__(self, name, tuple(value))
        check_fields(self, **RANGES)
        object.__setattr__(self, "rope_scaling", parse_rotary_scaling(self.rope_scaling))
        if self.num_key_value_heads is None:
            object.__setattr__(self, "num_key_value_heads", self.num_attention_heads)
        self._check_choices()
        self._check_sizes()
        head_dim = self._default_head_dim() if self.head_dim is None else self.head_dim
        object.__setattr__(self, "head_dim", head_dim)
        check_positive("head_dim", head_dim)
        if head_dim % 2:
            raise ValueError(
                f"head_dim={head_dim} must be even, because the rotary embedding rotates pairs of "
                f"entries; use {head_dim + 1}"
            )
        self._check_heads()
        object.__setattr__(self, "compressed_layers", self._checked_layers())

    def _check_choices(self) -> None:
        check_choice("layer_sharing", self.layer_sharing, SHARING_SCHEMES)
        check_choice("share_kv", self.share_kv, KV_POLICIES)
        check_choice("feed_forward", self.feed_forward, FEED_FORWARDS)
        check_choice("qk_norm", self.qk_norm, QK_NORMS)

    def _check_sizes(self) -> None:
        for name in (
            "vocab_size", "hidden_size", "num_blocks", "block_repeats", "max_position_embeddings"
        ):  # fmt: skip
            check_positive(name, getattr(self, name))
        order_of_layers(self.layer_sharing, self.num_blocks, self.block_repeats)
        for name in ("intermediate_size", "num_attention_heads", "num_key_value_heads"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) != self.num_blocks:
                raise ValueError(
                    f"{name} has {len(value)} values for num_blocks={self.num_blocks}; "
                    "give one value, or one per block"
                )
            for size in value if isinstance(value, tuple) else (value,):
                check_positive(name, size)

    def _default_head_dim(self) -> int:
        heads = self.num_attention_heads
        if not isinstance(heads, int):
            raise ValueError(
                "head_dim is required if num_attention_heads differs between blocks; give head_dim"
            )
        if self.hidden_size % heads:
            divisors = [n for n in range(1, self.hidden_size + 1) if self.hidden_size % n == 0]
            near = sorted(sorted(divisors, key=lambda n: abs(n - heads))[:3])
            raise ValueError(
                f"hidden_size={self.hidden_size} must be divisible by num_attention_heads={heads}; "
                f"use {listed(near)} heads, or give head_dim"
            )
        return self.hidden_size // heads

    def _check_heads(self) -> None:
        for shape in self.block_shapes:
            heads, kv_heads = shape.num_attention_heads, shape.num_key_value_heads
            if heads % kv_heads:
                divisors = [n for n in range(1, heads + 1) if heads % n == 0]
                raise ValueError(
                    f"num_attention_heads={heads} must be divisible by "
                    f"num_key_value_heads={kv_heads}; use {listed(divisors)}"
                )

    def _checked_layers(self) -> tuple[tuple[str, LayerShape], ...]:
        sizes = self.matrix_sizes
        checked = []
        for name, values in sorted(dict(self.compressed_layers).items()):
            if name not in sizes:
                check_choice("compressed_layers", name, sizes)
            try:
                shape = parse_layer_shape(values)
            except ValueError as error:
                raise ValueError(f"compressed_layers.{name}: {error}") from error
            try:
                shape.check(sizes[name])
            except ValueError as error:
                raise ValueError(f"compressed_layers.{name} {error}") from error
            checked.append((name, shape))
        return tuple(checked)

    @property
    def matrix_sizes(self) -> dict[str, tuple[int, int]]:
        """Rows and columns (out, in) of every stored matrix, by the name of its module."""
        sizes = {"embedding": (self.vocab_size, self.hidden_size)}
        for index, shape in enumerate(self.block_shapes):
            queries = shape.num_attention_heads * self.head_dim  # pyright: ignore
            keys = shape.num_key_value_heads * self.head_dim  # pyright: ignore
            width, inner = self.hidden_size, shape.intermediate_size
            gate = {"gate_proj": (inner, width)} if self.feed_forward == "swiglu" else {}
            parts = {
                "attention": {
                    "q_proj": (queries, width),
                    "k_proj": (keys, width),
                    "v_proj": (keys, width),
                    "o_proj": (width, queries),
                },
                "feed_forward": gate | {"up_proj": (inner, width), "down_proj": (width, inner)},
            }
            for part, matrices in parts.items():
                sizes |= {f"blocks.{index}.{part}.{name}": s for name, s in matrices.items()}
        return sizes if self.tie_word_embeddings else sizes | {"head": sizes["embedding"]}

    def matrix_of(self, parameter: str) -> str:
        """Name of the matrix (as in `matrix_sizes`) that a parameter of the model belongs to.

        The parameters of compressed matrices lie deeper than their names; of a norm, its own name.
        """
        found = (name for name in self.layer_shapes if parameter.startswith(f"{name}."))
        return next(found, parameter.rpartition(".")[0])

    @property
    def layer_shapes(self) -> dict[str, LayerShape]:
        """Shapes of the compressed matrices, by name; all other matrices are dense."""
        return dict(self.compressed_layers)  # pyright: ignore[reportReturnType, reportArgumentType]

    def layer_shape(self, name: str) -> LayerShape | None:
        """Shape of the named matrix; None if it is dense."""
        return self.layer_shapes.get(name)

    @property
    def num_layers(self) -> int:
        """Number of layers that run: the length of `layer_order`."""
        return len(self.layer_order)

    @property
    def layer_order(self) -> tuple[int, ...]:
        """For each layer the index of the stored block that runs there, `num_layers` entries."""
        return order_of_layers(self.layer_sharing, self.num_blocks, self.block_repeats)

    @property
    def block_uses(self) -> tuple[int, ...]:
        """Number of applications of each stored block in a forward pass, `num_blocks` entries."""
        uses = Counter(self.layer_order)
        return tuple(uses[block] for block in range(self.num_blocks))

    @property
    def is_shared(self) -> bool:
        """Whether a block is applied more than once."""
        return self.num_layers > self.num_blocks

    @property
    def block_shapes(self) -> tuple[BlockShape, ...]:
        """Sizes of each stored block, `num_blocks` entries."""
        per_block = (
            value if isinstance(value, tuple) else (value,) * self.num_blocks
            for value in (
                self.num_attention_heads,
                self.num_key_value_heads,
                self.intermediate_size,
            )
        )
        return tuple(BlockShape(*sizes) for sizes in zip(*per_block, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON and checkpoints.

        Compressed layers, multipliers and scaled rotary frequencies are left out if there are none,
        so that such models are written as they were before these fields existed.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        values["compressed_layers"] = {
            name: shape.to_dict() for name, shape in self.layer_shapes.items()
        }
        if isinstance(self.rope_scaling, RotaryScaling):
            values["rope_scaling"] = self.rope_scaling.to_dict()
        unused = {"compressed_layers": {}, "rope_scaling": None} | dict.fromkeys(MULTIPLIERS, 1)
        return {k: v for k, v in values.items() if k not in unused or v != unused[k]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelConfig":
        """The inverse of `to_dict`.

        Raises:
            ValueError: a field is unknown or has an invalid value.
        """
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                check_choice("model field", name, names)
        return cls(**values)


def one_or_each(sizes: Sequence[int]) -> PerBlock:
    """One value if the sizes of all blocks are equal, otherwise one value per block."""
    return sizes[0] if len(set(sizes)) == 1 else tuple(sizes)
