"""Ranks shapes by their slices of a supernet, and writes the report."""

import csv
import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from mobilellm.data.batches import CorpusBatches
from mobilellm.files import write_text_atomically
from mobilellm.formats.model_folder import open_model
from mobilellm.paths import check_unused
from mobilellm.pipeline.compress_data import data_to_compress_on
from mobilellm.pipeline.model_hash import model_hash
from mobilellm.ranges import MAX_SEED, Range, check_fields
from mobilellm.report.runs import Run
from mobilellm.report.shape_ranking import Ranking, rank, read_alone, read_supernet, shape_text
from mobilellm.report.shape_ranking_page import write_page
from mobilellm.report.shape_ranking_text import record
from mobilellm.run_folder import MODEL
from mobilellm.search.supernet import Supernet
from mobilellm.search.supernet_scores import Score, ScoreFile, score_shapes, shapes_to_rank
from mobilellm.strict_json import to_json

logger = logging.getLogger(__name__)

SCORES, JSON, CSV = "scores.jsonl", "ranking.json", "ranking.csv"


@dataclass(frozen=True, kw_only=True)
class RankOptions:
    """Settings of a ranking.

    Raises:
        ValueError: a number is out of range.
    """

    shapes: int = 64
    """The most shapes; of a larger space, random ones."""
    seed: int = 0
    """Of the random choice."""
    micro_batch_size: int = 8
    """Windows per forward pass."""
    prepared_dir: str | None = None
    """Folder of prepared data; None: that of the supernet's run."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        check_fields(
            self,
            shapes=Range(at_least=2, cap=1_000_000),
            seed=Range(at_least=0, cap=MAX_SEED),
            micro_batch_size=Range(at_least=1, cap=1_000_000),
        )


def rank_shapes(
    source: Path, alone: Sequence[Path], out: Path, options: RankOptions
) -> tuple[Ranking, Path]:
    """Score shapes of a supernet's space, and compare the order with models trained alone.

    Args:
        source: the run of a supernet, or a folder with exactly one.
        alone: folders of runs of at least 8 of its shapes.
        out: folder of the report; scores that an interrupted call left there are used.
        options: further settings.

    Returns:
        The ranking, and the path of the page.

    Raises:
        ValueError, FileNotFoundError: runs are missing or cannot be compared, or `out` is in use.
    """
    check_unused("--out", out, own=SCORES)
    run, space = read_supernet(source)
    runs = read_alone(alone, run, space)
    shapes = shapes_to_rank(
        space, run.model, number=options.shapes, included=[one.model for one in runs],
        seed=options.seed,
    )  # fmt: skip
    model = open_model(run.folder / MODEL)[0]
    data = _validation_data(run, model, options)
    file = ScoreFile(
        out / SCORES,
        {
            "model": model_hash(model),
            "validation": data.prepared.hashes["validation"],
            "validation_windows": data.num_validation_windows,
            "sequence_length": data.sequence_length,
        },
    )
    if file.known:
        logger.info("%d scores are known from %s", len(file.known), file.path)

    def tell(done: int, score: Score) -> None:
        logger.info(
            "%d of %d: %s: %.4f nats per token", done, len(shapes), shape_text(score.shape),
            score.loss,
        )  # fmt: skip

    scores = score_shapes(Supernet(model), shapes, list(data.validation()), file, tell)
    tokens = data.num_validation_windows * data.sequence_length
    ranking = rank(run, runs, scores, validation_tokens=tokens)
    write_text_atomically(out / JSON, to_json(record(ranking, space)) + "\n")
    write_text_atomically(out / CSV, csv_text(ranking))
    return ranking, write_page(ranking, out)


def _validation_data(run: Run, model: Any, options: RankOptions) -> CorpusBatches:
    """The validation windows with which the supernet's run was validated."""
    config = DictConfig(
        {
            "data": None,
            "prepared_dir": options.prepared_dir or run.setting("prepared_dir"),
            "sequence_length": run.sequence_length,
            "micro_batch_size": options.micro_batch_size,
            "validation_tokens": run.setting("validation_tokens"),
            "seed": run.seed,
        }
    )
    data = data_to_compress_on(config, run.folder, model)
    if data.prepared.hashes["validation"] != run.fact("hashes.validation"):
        raise ValueError(
            f"the validation text of {run.folder} has changed since it was trained; restore the "
            "files of its data"
        )
    return data


def csv_text(ranking: Ranking) -> str:
    """One row per shape, in the order of the scores."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["rank", "num_blocks", "hidden_size", "intermediate_size", "num_attention_heads",
         "num_key_value_heads", "body_parameters", "training_flops_per_token", "score",
         "alone_val_loss", "kendall_tau"]
    )  # fmt: skip
    for place, row in enumerate(ranking.shapes, start=1):
        shape = row.shape
        writer.writerow(
            [place, shape.num_blocks, shape.hidden_size, shape.intermediate_size,
             shape.num_attention_heads, shape.num_key_value_heads, row.body,
             row.training_flops_per_token, row.score, row.alone, ranking.tau.value]
        )  # fmt: skip
    return buffer.getvalue()
