"""Key-value cache with one slot per application of a block."""

from jaxtyping import Float
from torch import Tensor

from mobilellm.models.config import ModelConfig

_FIRST_CAPACITY = 64


def cache_slots(config: ModelConfig) -> tuple[int, ...]:
    """The cache slot of each layer, `num_layers` entries.

    With `share_kv=own` every application has a slot of its own; with `first` all applications of a
    block use the slot of the first one.
    """
    if config.share_kv == "own":
        return tuple(range(config.num_layers))
    first: dict[int, int] = {}
    return tuple(first.setdefault(block, len(first)) for block in config.layer_order)


class KVCache:
    """Preallocated keys and values; the capacity doubles as needed, up to the context length.

    A slot belongs to an *application*, not to a stored block: with shared blocks, one slot per
    block would mix the keys of different layers. `length` counts the tokens that every slot holds;
    the model increases it after all its layers have appended. No gradients flow through the cache.
    """

    def __init__(self, config: ModelConfig, *, capacity: int | None = None) -> None:
        """Make an empty cache.

        Args:
            config: of the model that will fill it.
            capacity: tokens to allocate at the first append; more are allocated if needed.

        Raises:
            ValueError: the capacity is below one or above the context length.
        """
        self.max_length = config.max_position_embeddings
        if capacity is not None and not 1 <= capacity <= self.max_length:
            raise ValueError(
                f"capacity={capacity} must lie between 1 and "
                f"max_position_embeddings={self.max_length}; leave it out to let the cache grow"
            )
        self.length = 0
        self._first_capacity = capacity or min(_FIRST_CAPACITY, self.max_length)
        self._slots: list[Tensor | None] = [None] * len(set(cache_slots(config)))

    @property
    def num_slots(self) -> int:
        """Number of applications with keys and values of their own."""
        return len(self._slots)

    @property
    def num_bytes(self) -> int:
        """Bytes allocated now."""
        return sum(slot.numel() * slot.element_size() for slot in self._slots if slot is not None)

    def append(
        self,
        slot: int,
        key: Float[Tensor, "batch kv_heads new head_dim"],
        value: Float[Tensor, "batch kv_heads new head_dim"],
    ) -> tuple[
        Float[Tensor, "batch kv_heads keys head_dim"],
        Float[Tensor, "batch kv_heads keys head_dim"],
    ]:
        """Store new keys and values after the first `length` tokens; return all of them.

        Args:
            slot: of the application, from `cache_slots`.
            key: new keys (batch, kv_heads, new, head_dim).
            value: new values, the same shape.

        Returns:
            Views (batch, kv_heads, length + new, head_dim) of keys and of values.

        Raises:
            ValueError: the batch size changed, or the tokens exceed the context length.
        """
        end = self.length + key.shape[2]
        store = self._reserve(slot, key, end)
        store[0, :, :, self.length : end] = key.detach()
        store[1, :, :, self.length : end] = value.detach()
        return store[0, :, :, :end], store[1, :, :, :end]

    def advance(self, num_tokens: int) -> None:
        """Add `num_tokens` to `length`, once every slot has them."""
        self.length += num_tokens

    def _reserve(
        self, slot: int, key: Float[Tensor, "batch kv_heads new head_dim"], end: int
    ) -> Float[Tensor, "2 batch kv_heads capacity head_dim"]:
        """The slot's tensor (2, batch, kv_heads, capacity, head_dim), for at least `end` tokens."""
        if end > self.max_length:
            raise ValueError(
                f"{end} tokens do not fit into max_position_embeddings={self.max_length}; "
                "shorten the sequence"
            )
        store = self._slots[slot]
        if store is not None and store.shape[1] != key.shape[0]:
            raise ValueError(
                f"batch of {key.shape[0]} does not match the cache's {store.shape[1]}; "
                "use a new cache for a new batch"
            )
        capacity = self._first_capacity if store is None else store.shape[3]
        if store is not None and end <= capacity:
            return store
        while capacity < end:
            capacity = min(2 * capacity, self.max_length)
        batch, kv_heads, _, head_dim = key.shape
        grown = key.new_empty(2, batch, kv_heads, capacity, head_dim)
        if store is not None:
            grown[:, :, :, : self.length] = store[:, :, :, : self.length]
        self._slots[slot] = grown
        return grown
