"""Key-value cache with one slot per application of a block."""

from jaxtyping import Float, Int
from torch import Tensor

from mobilellm.models.config import ModelConfig

_FIRST_CAPACITY = 64


def cache_slots(config: ModelConfig) -> tuple[int, ...]:
    """The cache slot of each layer, `num_layers` entries.

    With `share_kv=own` every application of a block has its own slot. With `first` all applications
    of a block share one slot.
    """
    if config.share_kv == "own":
        return tuple(range(config.num_layers))
    first: dict[int, int] = {}
    return tuple(first.setdefault(block, len(first)) for block in config.layer_order)


class KVCache:
    """Preallocated keys and values of earlier tokens.

    The capacity is doubled as needed, up to the context length. A slot belongs to an application
    and not to a stored block, because one slot per shared block would mix the keys of different
    layers. `length` is the number of tokens in every slot; the model increases it after all layers
    have appended their keys and values. No gradients flow through the cache.
    """

    def __init__(self, config: ModelConfig, *, capacity: int | None = None) -> None:
        """Create an empty cache.

        Args:
            config: configuration of the model that will use the cache.
            capacity: number of tokens to allocate memory for at first; default: 64 at most.

        Raises:
            ValueError: the capacity is below 1 or above the context length.
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
        """Number of slots, i.e. of applications that compute keys and values."""
        return len(self._slots)

    @property
    def num_bytes(self) -> int:
        """Number of bytes that are currently allocated."""
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
        """Append new keys and values to a slot, and return all keys and values in it.

        `length` does not change until `advance` is called.

        Args:
            slot: slot of the application, from `cache_slots`.
            key: new keys (batch, kv_heads, new, head_dim).
            value: new values, of the same shape.

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
        """Increase `length` by `num_tokens`, after they were appended to every slot."""
        self.length += num_tokens

    def truncate(self, num_tokens: int) -> None:
        """Forget all but the first `num_tokens` tokens, in every slot.

        Raises:
            ValueError: the cache has fewer tokens.
        """
        if not 0 <= num_tokens <= self.length:
            raise ValueError(
                f"num_tokens={num_tokens} must lie between 0 and the {self.length} tokens of the "
                "cache"
            )
        self.length = num_tokens

    def keep_rows(self, rows: Int[Tensor, " kept"]) -> None:
        """Forget all but some rows of the batch.

        Args:
            rows: indices of the rows that stay, in their new order.
        """
        self._slots = [None if slot is None else slot[:, rows] for slot in self._slots]

    def _reserve(
        self, slot: int, key: Float[Tensor, "batch kv_heads new head_dim"], end: int
    ) -> Float[Tensor, "2 batch kv_heads capacity head_dim"]:
        """Return the tensor of a slot, enlarged if necessary to hold `end` tokens."""
        if end > self.max_length:
            raise ValueError(
                f"{end} tokens do not fit into max_position_embeddings={self.max_length}; "
                "shorten the sequence"
            )
        store = self._slots[slot]
        if store is not None and store.shape[1] != key.shape[0]:
            raise ValueError(
                f"the batch size {key.shape[0]} does not match the cache's batch size "
                f"{store.shape[1]}; use a new cache for a new batch"
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
