"""Generation of tokens by greedy decoding or sampling, for prompts of different lengths."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from mobilellm.layers.quantized import dense_copies
from mobilellm.models.cache import KVCache
from mobilellm.models.decoding import MIN_NEW_TOKENS, PackedDecoder, can_pack
from mobilellm.models.mobilellm import MobileLLM
from mobilellm.models.token_constraints import TokenConstraint, allowed_tokens, unfinished
from mobilellm.ranges import MAX_SEED


@torch.no_grad()
def generate(
    model: MobileLLM,
    input_ids: Tensor | Sequence[Tensor],
    max_new_tokens: int,
    temperature: float = 0.0,
    *,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop_at_eos: bool = True,
    eos_token_id: int | Sequence[int] | None = None,
    constraints: Sequence[TokenConstraint | None] | None = None,
) -> Int[Tensor, "batch length"]:
    """Extend each prompt by up to `max_new_tokens` tokens.

    Args:
        model: the model. Dense copies of quantized matrices are kept until all tokens are
            generated, unless integers are multiplied.
        input_ids: prompts (batch, prompt), or a list of 1-D tensors of any lengths. These are
            padded on the left, which does not change the generated tokens.
        max_new_tokens: number of tokens to generate; fewer if all rows end earlier.
        temperature: 0 for greedy decoding; otherwise the logits are divided by it before sampling.
        top_k: sample only from the k most likely tokens.
        top_p: sample only from the smallest set of most likely tokens whose probabilities, after
            `top_k`, sum to at least this value.
        seed: seed of the sampling; None: use the global random generator.
        stop_at_eos: whether a row ends at `eos_token_id`.
        eos_token_id: token that ends a row, or several; default: that of the model's configuration.
        constraints: for each row, which tokens may come next; None: all of them. Each constraint
            is advanced by the tokens of its row, and must allow an end token at the end.

    Returns:
        Token ids (batch, longest prompt + max_new_tokens). After its end, a row is filled with
        `eos_token_id`, of several with the first.

    Raises:
        ValueError: a prompt is empty, the tokens exceed the context length, a setting is out of
            range or has no effect, or the logits are not finite.
    """
    config = model.config
    check_sampling(max_new_tokens, temperature, top_k, top_p, seed)
    if constraints is not None and len(constraints) != len(input_ids):
        raise ValueError(
            f"{len(constraints)} constraints are given for {len(input_ids)} prompts; give one for "
            "each prompt, or None"
        )
    given = config.eos_token_id if eos_token_id is None else eos_token_id
    ends = [given] if isinstance(given, int) else list(given)
    prompts, mask = _pad_left(input_ids, ends[0])
    batch, length = prompts.shape
    _check_length(length, max_new_tokens, config.max_position_embeddings)
    device = next(model.parameters()).device
    tokens = prompts.new_full((batch, length + max_new_tokens), ends[0], device=device)
    tokens[:, :length] = prompts
    if mask is not None:
        mask = F.pad(mask.to(device), (0, max_new_tokens), value=True)
    generator = None if seed is None else torch.Generator(device).manual_seed(seed)

    def choose(
        logits: Float[Tensor, "rows vocab"],
        rows: Int[Tensor, " rows"],
        ended: Bool[Tensor, " rows"],
    ) -> Int[Tensor, " rows"]:
        waiting = unfinished(constraints, rows, ended)
        allowed = allowed_tokens(waiting, logits)
        chosen = choose_tokens(logits, temperature, top_k, top_p, generator, allowed=allowed)
        for place, constraint in waiting.items():
            constraint.advance(int(chosen[place]))
        return chosen

    # Without the other rows, the random numbers of a row would be others.
    drops_ended = stop_at_eos and temperature == 0
    _fill(tokens, length, model, mask, choose, ends, stop_at_eos, drops_ended)
    return tokens


def _fill(
    tokens: Int[Tensor, "batch width"],
    length: int,
    model: MobileLLM,
    mask: Bool[Tensor, "batch width"] | None,
    choose: Callable[[Tensor, Tensor, Tensor], Tensor],
    ends: Sequence[int],
    stop_at_eos: bool,
    drops_ended: bool,
) -> None:
    """Write the new tokens to the columns of `tokens` from `length`, until all rows have ended.

    With `drops_ended`, rows that have ended leave the batch as soon as they are half of it.
    """
    batch, width = tokens.shape
    rows = torch.arange(batch, device=tokens.device)
    ended = torch.zeros(batch, dtype=torch.bool, device=tokens.device)
    end_tokens = torch.tensor(ends, device=tokens.device)
    cache = KVCache(model.config, capacity=width)
    logits = _forward(model, tokens[:, :length], cache, mask)
    decoder = None
    if width - length >= MIN_NEW_TOKENS and can_pack(model, batch):
        decoder = PackedDecoder(model, batch)
    # The decoder has copies of its own.
    with dense_copies(model) if decoder is None else nullcontext():
        for end in range(length, width):
            chosen = torch.where(ended, ends[0], choose(logits, rows, ended))
            tokens[rows, end] = chosen
            if stop_at_eos:
                ended |= torch.isin(chosen, end_tokens)
            if end + 1 == width or (stop_at_eos and ended.all()):
                break
            if drops_ended and decoder is None and 2 * ended.sum() >= len(rows):
                kept = (~ended).nonzero().squeeze(1)
                rows, ended = rows[kept], ended[kept]
                mask = None if mask is None else mask[kept]
                cache.keep_rows(kept)
            if decoder is None:
                logits = _forward(model, tokens[rows, end : end + 1], cache, mask)
            else:
                logits = decoder.step(tokens[:, end], cache, mask)


def _forward(
    model: MobileLLM,
    tokens: Int[Tensor, "batch new"],
    cache: KVCache,
    mask: Bool[Tensor, "batch width"] | None,
) -> Float[Tensor, "batch vocab"]:
    """Logits (batch, vocab) at the last of `tokens`."""
    if mask is not None:
        mask = mask[:, : cache.length + tokens.shape[1]]
    output = model(tokens, cache, attention_mask=mask, logits=False)
    return model.unembed(output.hidden[:, -1])


def choose_tokens(
    logits: Float[Tensor, "batch vocab"],
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    *,
    allowed: Bool[Tensor, "batch vocab"] | None = None,
) -> Int[Tensor, " batch"]:
    """Choose one token per row, by the settings of `generate`.

    Args:
        logits: of the next token (batch, vocab), finite.
        temperature: as for `generate`.
        top_k: as for `generate`.
        top_p: as for `generate`.
        generator: of the random numbers; None: the global one.
        allowed: (batch, vocab), False for tokens that are not chosen; at least one per row is True.

    Returns:
        Token ids (batch,).

    Raises:
        ValueError: a logit is NaN or infinite.
    """
    if not logits.isfinite().all():
        raise ValueError(
            "the model's logits are not finite (NaN or infinite): its weights are damaged, or its "
            "training diverged; use an earlier checkpoint, or fetch the model again"
        )
    if allowed is not None:
        logits = logits.masked_fill(~allowed, float("-inf"))
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = logits.float() / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        kept, places = logits.topk(top_k, dim=-1)
        logits = torch.full_like(logits, float("-inf")).scatter(-1, places, kept)
    if top_p is not None and top_p < 1:
        ordered, places = logits.softmax(dim=-1).sort(dim=-1, descending=True)
        # The sum excludes the token itself, so that the most likely token is always kept.
        dropped = ordered.cumsum(dim=-1) - ordered >= top_p
        logits = logits.masked_fill(
            torch.zeros_like(dropped).scatter(-1, places, dropped), float("-inf")
        )
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(-1)


def _pad_left(
    input_ids: Tensor | Sequence[Tensor], filler: int
) -> tuple[Int[Tensor, "batch longest"], Bool[Tensor, "batch longest"] | None]:
    """Pad prompts on the left; also return a mask of unpadded entries, None without padding."""
    if isinstance(input_ids, Tensor):
        if input_ids.dim() != 2 or input_ids.numel() == 0:
            raise ValueError(
                f"input_ids has shape {tuple(input_ids.shape)}; give at least one token per row, "
                "(batch, prompt) or a list of 1-D tensors"
            )
        return input_ids, None
    rows = list(input_ids)
    for index, row in enumerate(rows):
        if row.dim() != 1 or row.numel() == 0:
            raise ValueError(
                f"prompt {index} has shape {tuple(row.shape)}; give 1-D tensors of at least one "
                "token, e.g. bos_token_id"
            )
    if not rows:
        raise ValueError("input_ids is an empty list; give at least one prompt")
    longest = max(len(row) for row in rows)
    if all(len(row) == longest for row in rows):
        return torch.stack(rows), None
    prompts = rows[0].new_full((len(rows), longest), filler)
    mask = torch.zeros_like(prompts, dtype=torch.bool)
    for index, row in enumerate(rows):
        prompts[index, longest - len(row) :] = row
        mask[index, longest - len(row) :] = True
    return prompts, mask


def _check_length(length: int, max_new_tokens: int, context: int) -> None:
    if length + max_new_tokens > context:
        raise ValueError(
            f"a prompt of {length} tokens and max_new_tokens={max_new_tokens} together exceed "
            f"max_position_embeddings={context}; use at most {max(context - length, 0)} new "
            "tokens, or shorten the prompt"
        )


def check_sampling(
    max_new_tokens: int,
    temperature: float,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> None:
    """Check settings of `generate`.

    Raises:
        ValueError: a setting is out of range, or has no effect.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
    if not temperature >= 0:
        raise ValueError(f"temperature={temperature} must be 0 (greedy) or above")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k} must be at least 1; leave it out to keep every token")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} must be above 0 and at most 1")
    if seed is not None and not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed={seed} must lie between 0 and 2**63 - 1")
    for name, value in (("top_k", top_k), ("top_p", top_p), ("seed", seed)):
        if temperature == 0 and value is not None:
            raise ValueError(
                f"{name}={value} has no effect on greedy decoding; set a temperature above 0"
            )
