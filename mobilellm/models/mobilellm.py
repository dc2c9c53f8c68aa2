"""The language model, which stores each block once and applies it at one or several layers."""

from collections.abc import Collection
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from torch.utils.checkpoint import checkpoint

from mobilellm.models.attention import KeysValues
from mobilellm.models.block import BlockOutput, TransformerBlock
from mobilellm.models.cache import KVCache, cache_slots
from mobilellm.models.config import ModelConfig
from mobilellm.models.embedding import make_head, make_token_table
from mobilellm.models.initialization import initialize_
from mobilellm.models.norm import RMSNorm
from mobilellm.models.rotary import rotary_of

CAPTURES = ("embedding", "hidden_states", "attention", "feed_forward")


@dataclass(frozen=True)
class ModelOutput:
    """Outputs of a forward pass."""

    hidden: Float[Tensor, "batch seq hidden"]
    """Hidden states after the final norm, (batch, seq, hidden): the input of `unembed`."""
    logits: Float[Tensor, "batch seq vocab"] | None = None
    """Logits (batch, seq, vocab); None if they were not requested."""
    captured: dict[str, list[Tensor]] = field(default_factory=dict)
    """For each requested name one tensor per layer, in order; for `embedding` a single tensor."""


class MobileLLM(nn.Module):
    """A decoder-only Transformer with `num_blocks` stored blocks and `num_layers` layers.

    Source: Liu et al. 2024, MobileLLM, arXiv:2402.14905.
    """

    def __init__(self, config: ModelConfig) -> None:
        """Create the model and initialise its weights with the global random generator."""
        super().__init__()
        self.config = config
        device = torch.get_default_device()
        # Creating the modules on the meta device skips torch's initialisation, which would be
        # overwritten.
        with torch.device("meta"):
            self.embedding = make_token_table(config)
            self.blocks = nn.ModuleList(
                TransformerBlock(config, index) for index in range(config.num_blocks)
            )
            self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
            self.head = make_head(config)
        self._activation_checkpointing = False
        self.set_config(config)
        self._layers = tuple(zip(config.layer_order, cache_slots(config), strict=True))
        self.to_empty(device=device)
        # Tensors on the meta device have no values; initialising them would only take time.
        if device.type != "meta":
            initialize_(self)

    def set_config(self, config: ModelConfig) -> None:
        """Set the configuration, after layers were replaced by others of the same sizes."""
        self.config = config
        # If no block does, the state of the generator need not be restored to run it again.
        self._draws_random_numbers = any(
            shape.draws_random_numbers for shape in config.layer_shapes.values()
        )

    def set_activation_checkpointing(self, enabled: bool) -> None:
        """Set whether training saves only the input of each layer and recomputes the rest."""
        self._activation_checkpointing = enabled

    def embed(self, input_ids: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch hidden"]:
        """Look up token embeddings: ids (...) -> (..., hidden), in the data type of the norms.

        A quantized table has no data type of its own.
        """
        return self.embedding(input_ids).to(self.norm.weight.dtype)

    def unembed(self, hidden: Float[Tensor, "*batch hidden"]) -> Float[Tensor, "*batch vocab"]:
        """Compute logits with the tied embedding or the head: (..., hidden) -> (..., vocab)."""
        if self.config.output_multiplier != 1:
            hidden = hidden * self.config.output_multiplier
        return self.embedding.unembed(hidden) if self.head is None else self.head(hidden)  # pyright: ignore[reportCallIssue]

    def forward(
        self,
        input_ids: Int[Tensor, "..."],
        cache: KVCache | None = None,
        *,
        attention_mask: Tensor | BlockMask | None = None,
        positions: Int[Tensor, "#batch seq"] | None = None,
        logits: bool = True,
        capture: Collection[str] = (),
    ) -> ModelOutput:
        """Predict the token after each position of `input_ids`.

        Args:
            input_ids: token ids (batch, seq).
            cache: keys and values of earlier tokens. Those of `input_ids` are appended.
            attention_mask: bool, True if a key may be attended to, in addition to causality.
                (batch, keys) for padding on either side; the keys include those in the cache.
                (batch, queries, keys) for other masks, e.g. to separate documents. Or a
                `BlockMask` that includes causality (`attention_mask_of`), without a cache.
            positions: position of each token of `input_ids` for the rotary embedding, (batch or 1,
                seq), below the context length; the sequence itself may then be longer. Default: the
                number of tokens before it.
            logits: whether to compute the logits. Chunked losses only need `hidden`.
            capture: names of intermediate results to return: `embedding` (token embeddings),
                `hidden_states` (residual stream after each layer), `attention` (weights
                (batch, heads, queries, keys)), `feed_forward` (output of the feed-forward layer).

        Raises:
            ValueError: the sequence exceeds the context length, `input_ids` or the mask has a wrong
                shape or type, or a name in `capture` is unknown.
        """
        past = 0 if cache is None else cache.length
        self._check_input(input_ids, past, capture, positions)
        mask, counted = _mask_and_positions(input_ids, past, attention_mask)
        positions = counted if positions is None else positions
        rotary = rotary_of(self.config, positions)
        x = self.embed(input_ids)
        captured: dict[str, list[Tensor]] = {name: [] for name in capture}
        if "embedding" in captured:
            captured["embedding"].append(x)
        shared: dict[int, KeysValues] = {}
        share_kv = self.config.share_kv == "first"
        need_weights = "attention" in captured
        for index, slot in self._layers:
            output = self._apply_block(
                self.blocks[index], x, rotary, mask, shared.get(slot), cache, slot, need_weights
            )
            x = output.hidden
            if share_kv:
                shared[slot] = output.keys_values
            if captured:
                _store(captured, output)
        if cache is not None:
            cache.advance(input_ids.shape[1])
        hidden = self.norm(x)
        return ModelOutput(hidden, self.unembed(hidden) if logits else None, captured)

    def run_layers(
        self,
        x: Float[Tensor, "batch seq hidden"],
        layers: slice,
        *,
        attention_mask: Tensor | BlockMask | None = None,
    ) -> Float[Tensor, "batch seq hidden"]:
        """Apply consecutive layers to the residual stream.

        Args:
            x: residual stream (batch, seq, hidden); for the first layer, `embed(input_ids)`.
            layers: range of indices into `layer_order`.
            attention_mask: as for `forward`, without a cache.

        Returns:
            Residual stream (batch, seq, hidden) after the last of `layers`, without the final norm.

        Raises:
            ValueError: the model has `share_kv="first"`, with which layers need the keys and values
                of earlier layers.
        """
        if self.config.share_kv == "first":
            raise ValueError(
                "with share_kv='first' layers use the keys and values of earlier layers and cannot "
                "run separately; run the whole model"
            )
        mask, positions = _mask_and_positions(x[..., 0], 0, attention_mask)
        rotary = rotary_of(self.config, positions)
        for index, slot in self._layers[layers]:
            x = self._apply_block(
                self.blocks[index], x, rotary, mask, None, None, slot, False
            ).hidden
        return x

    def _apply_block(self, block, x, rotary, mask, keys_values, cache, slot, need_weights):
        """Run one layer, with activation checkpointing if it is enabled and applicable."""
        if self._activation_checkpointing and cache is None and torch.is_grad_enabled():
            return checkpoint(
                block, x, rotary, mask, keys_values, need_weights=need_weights,
                use_reentrant=False, preserve_rng_state=self._draws_random_numbers,
            )  # fmt: skip
        return block(
            x, rotary, mask, keys_values, cache=cache, slot=slot, need_weights=need_weights
        )

    def _check_input(
        self, input_ids: Tensor, past: int, capture: Collection[str], positions: Tensor | None
    ) -> None:
        if input_ids.dim() != 2:
            raise ValueError(
                f"input_ids has shape {tuple(input_ids.shape)}; give token ids (batch, sequence)"
            )
        length = past + input_ids.shape[1]
        if positions is not None:
            if positions.shape not in ((1, input_ids.shape[1]), input_ids.shape):
                raise ValueError(
                    f"positions have shape {tuple(positions.shape)}; give one per token, "
                    f"{tuple(input_ids.shape)}"
                )
            length = int(positions.max()) + 1
        if length > self.config.max_position_embeddings:
            raise ValueError(
                f"a sequence of {length} tokens is longer than "
                f"max_position_embeddings={self.config.max_position_embeddings}; "
                "shorten it, or build the model with a longer context"
            )
        for name in capture:
            if name not in CAPTURES:
                raise ValueError(f"capture={name!r} is not known; use one of {', '.join(CAPTURES)}")


def _store(captured: dict[str, list[Tensor]], output: BlockOutput) -> None:
    values = {
        "hidden_states": output.hidden,
        "attention": output.attention,
        "feed_forward": output.feed_forward,
    }
    for name, value in values.items():
        if name in captured:
            captured[name].append(value)


def _mask_and_positions(
    input_ids: Shaped[Tensor, "batch queries"], past: int, attention_mask: Tensor | BlockMask | None
) -> tuple[Bool[Tensor, "#batch 1 queries keys"] | BlockMask | None, Int[Tensor, "#batch queries"]]:
    """The attention mask and the position of each query.

    Returns:
        Mask (batch or 1, 1, queries, keys), or None for causal attention without a mask; positions
        (batch or 1, queries). With a padding mask, a position is the number of unpadded tokens
        before the token.

    Raises:
        ValueError: the mask has a wrong type or shape.
    """
    batch, queries = input_ids.shape
    keys = past + queries
    positions = torch.arange(past, keys, device=input_ids.device).unsqueeze(0)
    if attention_mask is None and (past == 0 or queries == 1):
        return None, positions
    if isinstance(attention_mask, BlockMask):
        if attention_mask.shape[-2:] != (queries, keys):
            raise ValueError(
                f"attention_mask is a BlockMask of shape {tuple(attention_mask.shape)}; give one "
                f"of {queries} queries and {keys} keys, and no cache"
            )
        return attention_mask, positions
    causal = torch.arange(keys, device=input_ids.device) <= positions.unsqueeze(-1)
    if attention_mask is None:
        return causal.unsqueeze(1), positions
    if attention_mask.dtype != torch.bool:
        raise ValueError(
            f"attention_mask has type {attention_mask.dtype}; give a bool tensor that is True for "
            "keys that may be attended to"
        )
    if attention_mask.shape == (batch, keys):
        positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)[:, past:]
        attention_mask = attention_mask.unsqueeze(1)
    elif attention_mask.shape != (batch, queries, keys):
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}; give (batch, keys) = "
            f"{(batch, keys)} or (batch, queries, keys) = {(batch, queries, keys)}"
        )
    allowed = causal & attention_mask
    # The softmax of a padded query without any key would be 0 / 0. It therefore attends to itself;
    # its output is not used.
    itself = torch.arange(keys, device=input_ids.device) == torch.arange(
        past, keys, device=input_ids.device
    ).unsqueeze(-1)
    return (allowed | (itself & ~allowed.any(-1, keepdim=True))).unsqueeze(1), positions
