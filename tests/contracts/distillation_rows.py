"""The distillation losses under test: data for them, and a naive version of each.

A loss in a file of its own without a row here is found by itself and tested with its defaults,
against everything but a naive version.
"""

import importlib
import math
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch

from mobilellm.distillation import losses
from mobilellm.distillation.losses.attention_kl import AttentionKL
from mobilellm.distillation.losses.forward_kl import ForwardKL
from mobilellm.distillation.losses.hidden_state_cosine import HiddenStateCosine
from mobilellm.distillation.losses.hidden_state_mse import HiddenStateMSE
from mobilellm.distillation.losses.jensen_shannon import JensenShannon
from mobilellm.distillation.losses.logit_mse import LogitMSE
from mobilellm.distillation.losses.loss import LogitLoss, StateLoss
from mobilellm.distillation.losses.reverse_kl import ReverseKL
from mobilellm.distillation.losses.skewed_kl import SkewedKL
from mobilellm.distillation.losses.targets import top_k_of
from mobilellm.distillation.losses.teacher_cross_entropy import TeacherCrossEntropy

K = 4


def kl(p, q):
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def mixture(beta):
    def divergence(student, teacher):
        mixed = beta * teacher + (1 - beta) * student
        return beta * kl(teacher, mixed) + (1 - beta) * kl(student, mixed)

    return divergence


def cross_entropy(student, teacher):
    return -sum(teacher * np.log(student))


def cosine_distance(student, teacher):
    return 1 - student @ teacher / math.sqrt(student @ student) / math.sqrt(teacher @ teacher)


def head_by_head(student, teacher):
    return np.mean([kl(theirs, mine) for mine, theirs in zip(student, teacher, strict=True)])


@dataclass(frozen=True)
class Row:
    loss: LogitLoss | StateLoss
    naive: Callable | None
    """(student, teacher) of one token -> number: probabilities of the classes, states (width,), or
    attention (heads, keys); logits for a loss that needs all of them. None: not compared."""
    targets: tuple[str, ...] = ("states",)


TARGETS = ("logits", "bucket", "renormalize")
LOSSES = {
    "forward KL": Row(ForwardKL(), lambda s, t: kl(t, s), TARGETS),
    "reverse KL": Row(ReverseKL(), kl, TARGETS),
    "Jensen-Shannon": Row(JensenShannon(), mixture(0.5), TARGETS),
    "Jensen-Shannon 0.2": Row(JensenShannon(beta=0.2), mixture(0.2), TARGETS),
    "skewed KL": Row(SkewedKL(), lambda s, t: kl(t, 0.1 * t + 0.9 * s), TARGETS),
    "skewed reverse KL 0.3": Row(
        SkewedKL(alpha=0.3, reverse=True), lambda s, t: kl(s, 0.3 * s + 0.7 * t), TARGETS
    ),
    "teacher cross entropy": Row(TeacherCrossEntropy(), cross_entropy, TARGETS),
    "logit MSE": Row(LogitMSE(), lambda s, t: np.mean((s - t) ** 2), ("raw logits",)),
    "hidden MSE": Row(HiddenStateMSE(), lambda s, t: np.mean((s - t) ** 2)),
    "embedding MSE": Row(HiddenStateMSE(capture="embedding"), lambda s, t: np.mean((s - t) ** 2)),
    "hidden cosine": Row(HiddenStateCosine(), cosine_distance),
    "attention": Row(AttentionKL(), head_by_head, ("attention",)),
    "attention, mean": Row(
        AttentionKL(heads="mean"), lambda s, t: kl(t.mean(0), s.mean(0)), ("attention",)
    ),
}


def all_losses():
    """The classes of all losses, each from the file that defines it."""
    for module in pkgutil.iter_modules(losses.__path__, f"{losses.__name__}."):
        for value in vars(importlib.import_module(module.name)).values():
            is_own = isinstance(value, type) and value.__module__ == module.name
            if is_own and issubclass(value, LogitLoss | StateLoss):
                yield value


KNOWN = {LogitLoss, StateLoss, *(type(row.loss) for row in LOSSES.values())}
LOSSES |= {
    found.__name__: Row(found(), None, TARGETS if issubclass(found, LogitLoss) else ("states",))
    for found in all_losses()
    if found not in KNOWN
}
CASES = [(name, target) for name, row in LOSSES.items() for target in row.targets]
NAIVE_CASES = [(name, target) for name, target in CASES if LOSSES[name].naive is not None]
WITH_TEMPERATURE = [(name, target) for name, target in CASES if target in TARGETS]


def attention_maps(generator, batch, heads, length):
    scores = torch.randn(batch, heads, length, length, generator=generator, dtype=torch.float64)
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    return scores.masked_fill(later, -math.inf).softmax(-1)


def make(target, seed, dtype=torch.float64):
    """Student, teacher (..., what a token has) and a mask (batch, seq) with both values."""
    generator = torch.Generator().manual_seed(seed)
    batch, length = (int(torch.randint(2, 6, (), generator=generator)) for _ in range(2))
    if target == "attention":
        made = [attention_maps(generator, batch, 3, length) for _ in range(2)]
    else:
        width = int(torch.randint(K + 2, 12, (), generator=generator))
        made = [
            2 * torch.randn(batch, length, width, generator=generator, dtype=torch.float64)
            for _ in range(2)
        ]
    mask = torch.rand(batch, length, generator=generator) < 0.6
    mask[0, 0], mask[-1, -1] = True, False
    return made[0].to(dtype), made[1].to(dtype), mask


def evaluate(row, target, student, teacher, mask, temperature=1.0):
    """The loss's value; `teacher` is complete, and cut here to what `target` names."""
    if isinstance(row.loss, StateLoss):
        return row.loss([student], [teacher], mask)
    loss = row.loss
    if target in TARGETS:
        loss = replace(loss, temperature=temperature)
    if target in ("bucket", "renormalize"):
        loss, teacher = replace(loss, rest=target), top_k_of(teacher, K, temperature=temperature)
    return loss(student, teacher, mask)


def on_classes(target, student, teacher, temperature):
    """Probabilities of one token's classes, from exponentials alone."""
    student, teacher = (np.exp(z / temperature) for z in (student, teacher))
    student, teacher = student / student.sum(), teacher / teacher.sum()
    if target == "logits":
        return student, teacher
    known = np.argsort(-teacher, kind="stable")[:K]
    others = np.setdiff1d(np.arange(len(teacher)), known)
    if target == "renormalize":
        return student[known] / student[known].sum(), teacher[known] / teacher[known].sum()
    return tuple(np.append(p[known], p[others].sum()) for p in (student, teacher))


def naive_value(row, target, student, teacher, mask, temperature=1.0):
    """Token by token in float64."""
    values = []
    for i, j in mask.nonzero().tolist():
        if target == "attention":
            pair = [maps[i, :, j].double().numpy() for maps in (student, teacher)]
        else:
            pair = [states[i, j].double().numpy() for states in (student, teacher)]
        if target in TARGETS:
            pair = on_classes(target, *pair, temperature)
        values.append(row.naive(*pair) * (temperature**2 if target in TARGETS else 1))
    return torch.tensor(np.mean(values))


def reference(row, target, student, teacher, mask, temperature=1.0):
    """The naive value; of a loss without a naive version, its own in float64."""
    if row.naive is not None:
        return naive_value(row, target, student, teacher, mask, temperature)
    return evaluate(row, target, student.double(), teacher.double(), mask, temperature)


def gradient(row, target, student, teacher, mask, **options):
    student = student.clone().requires_grad_()
    evaluate(row, target, student, teacher, mask, **options).backward()
    return student.grad


def spoil(states, mask, value, target):
    """`value` in all that belongs to masked tokens."""
    hidden = ~(mask[:, None, :, None] if target == "attention" else mask[..., None])
    return states.masked_fill(hidden, value)
