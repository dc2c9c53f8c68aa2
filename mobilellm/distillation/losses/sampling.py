"""Random samples of a teacher's tokens whose weights are an unbiased estimate of its distribution.

The k most likely tokens underestimate the tail: a student that learns from them is biased, however
long it trains. Here every token is kept with a known probability, and its weight is its probability
divided by that, so that the expectation of the weights is the whole distribution. A loss that is
linear in the teacher's probabilities, such as the gradient of forward KL or of the cross entropy,
is then unbiased.

Source: Anshumann et al. 2025, Sparse Logit Sampling, arXiv:2503.16870, which draws with
replacement. Here k different tokens are drawn, with probabilities min(1, c p) (Horvitz and Thompson
1952, doi:10.1080/01621459.1952.10483446; by systematic sampling), which has a smaller variance: the
likely tokens are always kept, with their own probabilities, and the others share what remains.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from mobilellm.distillation.losses.targets import TopK, log_softmax


def sample_of(
    logits: Float[Tensor, "tokens vocab"],
    k: int,
    offsets: Float[Tensor, " tokens"],
    *,
    temperature: float = 1.0,
) -> TopK:
    """Sample k tokens of each distribution.

    Args:
        logits: (tokens, vocab).
        k: at most vocab.
        offsets: (tokens,), uniformly distributed random numbers from 0 to below 1, which determine
            the sample.
        temperature: temperature of the softmax.

    Returns:
        (tokens, k), those that are always kept first; the weights of a row sum to 1.

    Raises:
        ValueError: k is out of range.
    """
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(f"k={k} must be between 1 and vocab_size={logits.shape[-1]}")
    # MPS has no float64.
    dtype = torch.float32 if logits.device.type == "mps" else torch.float64
    probabilities = log_softmax(logits, temperature).to(dtype).exp()
    best, indices = probabilities.topk(k, -1)
    slots = torch.arange(k, device=logits.device)
    # What remains of the distribution if the first 0, 1, … tokens are always kept.
    rests = (best.flip(-1).cumsum(-1).flip(-1) + (1 - best.sum(-1, keepdim=True))).clamp(min=0)
    # A token is always kept if c p ≥ 1, with c = (k − kept) / rest.
    always = (best * (k - slots) >= rests).long().cumprod(-1)
    kept = always.sum(-1, keepdim=True)
    others = probabilities.scatter(-1, indices, best * (1 - always).to(dtype))
    ends = others.cumsum(-1)
    step = ends[..., -1:] / (k - kept).clamp(min=1)
    points = (slots - kept + offsets.to(logits.device, dtype).unsqueeze(-1)) * step
    # Rounding must not move a point beyond the last token that has a probability.
    points = points.clamp(min=0).minimum(ends[..., -1:] * (1 - torch.finfo(dtype).eps))
    drawn = torch.searchsorted(ends, points, right=True).clamp(max=logits.shape[-1] - 1)
    is_always = always.bool()
    weights = torch.where(is_always, best, step.expand_as(best))
    return TopK(
        torch.where(is_always, indices, drawn),
        weights.log().to(torch.promote_types(logits.dtype, torch.float32)),
        temperature,
        is_sample=True,
    )
