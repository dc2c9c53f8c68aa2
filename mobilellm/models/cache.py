"""Keys and values of past tokens, one slot per application of a block."""

from torch import Tensor

from mobilellm.models.config import ModelConfig

_FIRST_CAPACITY = 64


def cache_slots(config: ModelConfig) -> tuple[int, ...]:
    """The cache slot of each layer, `num_layers` entries.

    With `share_kv=own` every application has its own; with `first` the repeats of a block name
    the slot of its first application.
    """
    if config.share_kv == "own":
        return tuple(range(config.num_layers))
    first: dict[int, int] = {}
    return tuple(first.setdefault(block, len(first)) for block in config.layer_order)


class KVCache:
    """Preallocated keys and values that grow by doubling, up to the context length.

    A slot belongs to an *application*, not to a stored block: with shared blocks, one slot per
    block would mix the keys of different depths. `length` counts the tokens held by every slot;
    the model moves it after all its layers have appended. Gradients do not flow through it.
    """

    def __init__(self, config: ModelConfig, *, capacity: int | None = None) -> None:
        """Make an empty cache.

        Args:
            config: of the model that will fill it.
            capacity: tokens to reserve room for at the first append; grows where needed.

        Raises:
            ValueError: a capacity below one or above the context length.
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
        """Applications that keep their own keys and values."""
        return len(self._slots)

    @property
    def num_bytes(self) -> int:
        """Bytes reserved now."""
        return sum(slot.numel() * slot.element_size() for slot in self._slots if slot is not None)

    def append(self, slot: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store new keys and values after the `length` held; return all, new ones included.

        Args:
            slot: the application's place, from `cache_slots`.
            key: new keys (batch, kv_heads, new, head_dim).
            value: new values, the same shape.

        Returns:
            Views (batch, kv_heads, length + new, head_dim) of keys and of values.

        Raises:
            ValueError: another batch size than before, or more tokens than the context holds.
        """
        end = self.length + key.shape[2]
        store = self._reserve(slot, key, end)
        store[0, :, :, self.length : end] = key.detach()
        store[1, :, :, self.length : end] = value.detach()
        return store[0, :, :, :end], store[1, :, :, :end]

    def advance(self, num_tokens: int) -> None:
        """Count `num_tokens` as held, once every slot has them."""
        self.length += num_tokens

    def truncate(self, length: int) -> None:
        """Forget all tokens from `length` on, e.g. rejected proposals.

        Raises:
            ValueError: `length` is negative or more than is held.
        """
        if not 0 <= length <= self.length:
            raise ValueError(f"length={length} must lie between 0 and the {self.length} held")
        self.length = length

    def _reserve(self, slot: int, key: Tensor, end: int) -> Tensor:
        """The slot's store (2, batch, kv_heads, capacity, head_dim), with room for `end` tokens."""
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
