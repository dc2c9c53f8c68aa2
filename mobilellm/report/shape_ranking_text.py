"""The ranking of shapes as sentences, as a table for the terminal, and as records for JSON."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mobilellm.models.config import ModelConfig
from mobilellm.models.shape_name import shape_name
from mobilellm.report.shape_ranking import RankedShape, Ranking, space_text
from mobilellm.search.supernet_space import SupernetSpace
from mobilellm.units import count_text, duration_text, si_text

if TYPE_CHECKING:
    from rich.table import Table

HEADS = ("rank", "blocks", "width", "channels", "heads", "body", "score", "alone")
SHOWN = 20
"""Rows of the table in the terminal; those of shapes that were trained alone are always shown."""


def tau_sentence(ranking: Ranking) -> str:
    """How far the order can be trusted; stands beside every result."""
    return f"Kendall's τ with models trained alone: {ranking.tau}"


def sentences(ranking: Ranking) -> list[str]:
    """What was found, in sentences."""
    cost = ranking.cost
    best = ranking.shapes[0]
    baselines = "; ".join(f"{name}: {tau}" for name, tau in ranking.baselines.items())
    lines = [
        f"{tau_sentence(ranking)}.",
        f"The same of orders that need no training: {baselines}.",
        f"Ranking {len(ranking.shapes)} shapes cost {cost.flops_share:.0%} of the FLOPs of "
        f"training them alone ({si_text(cost.supernet_flops + cost.scoring_flops)} and "
        f"{si_text(cost.alone_flops)}), and {cost.seconds_share:.0%} of the time "
        f"({duration_text(cost.supernet_seconds + cost.scoring_seconds)}, and "
        f"{duration_text(cost.alone_seconds)} by the times of the {len(ranking.alone)} runs).",
        f"The lowest score is that of {_name(best.shape)}.",
    ]
    if regret := _regret(ranking):
        lines.append(regret)
    return lines


def _regret(ranking: Ranking) -> str:
    """What choosing by score would have cost, among the shapes that were trained alone."""
    judged = [shape for shape in ranking.shapes if shape.alone is not None]
    chosen, losses = judged[0], [shape.alone or 0.0 for shape in judged]
    return (
        f"Of the shapes that were trained alone, the one with the lowest score, "
        f"{_name(chosen.shape)}, is {(chosen.alone or 0.0) - min(losses):.4f} nats per token above "
        f"the best one, whose losses range over {max(losses) - min(losses):.4f}."
    )


def table(ranking: Ranking) -> "Table":
    """The best shapes, and all that were trained alone."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, title=tau_sentence(ranking), title_justify="left",
                 min_width=79, padding=(0, 1, 0, 0))  # fmt: skip
    for head in HEADS:
        made.add_column(head, justify="right")
    for place, row in enumerate(ranking.shapes, start=1):
        if place <= SHOWN or row.alone is not None:
            made.add_row(*cells(place, row))
    return made


def cells(place: int, row: RankedShape) -> tuple[str, ...]:
    """The texts of one row, in the order of `HEADS`."""
    shape = row.shape
    return (
        str(place), str(shape.num_blocks), str(shape.hidden_size), str(shape.intermediate_size),
        f"{shape.num_attention_heads}/{shape.num_key_value_heads}", count_text(row.body),
        f"{row.score:.4f}", "" if row.alone is None else f"{row.alone:.4f}",
    )  # fmt: skip


def record(ranking: Ranking, space: SupernetSpace) -> dict[str, Any]:
    """Plain data for JSON; the rank correlation is part of every result."""
    tau = asdict(ranking.tau)
    cost = asdict(ranking.cost) | {
        "flops_share": ranking.cost.flops_share, "seconds_share": ranking.cost.seconds_share
    }  # fmt: skip
    return {
        "supernet": str(ranking.supernet.folder),
        "space": space.to_dict(),
        "space_text": space_text(space),
        "supernet_tokens": ranking.supernet.tokens,
        "alone_tokens": ranking.alone[0].tokens,
        "alone": [str(run.folder) for run in ranking.alone],
        "hashes": ranking.supernet.fact("hashes"),
        "validation_tokens": ranking.validation_tokens,
        "kendall_tau": tau,
        "baselines": {name: asdict(value) for name, value in ranking.baselines.items()},
        "cost": cost,
        "shapes": [
            {
                "rank": place,
                "model": row.shape.to_dict(),
                "body_parameters": row.body,
                "training_flops_per_token": row.training_flops_per_token,
                "score": row.score,
                "alone_val_loss": row.alone,
                "kendall_tau": tau["value"],
            }
            for place, row in enumerate(ranking.shapes, start=1)
        ],
    }


def _name(shape: ModelConfig) -> str:
    return f"{shape_name(shape)} with {shape.intermediate_size} channels"
