"""metrics.csv: merged rows, growing columns, cutting on resume."""

import csv

import pytest

from mobilellm.training.csv_logger import COLUMNS, CSVLogger


def read(folder):
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(logger, steps):
    for step in steps:
        logger.log_metrics({"tokens": step * 10, "train/loss": 1 / (step + 1)}, step=step)


def test_values_of_a_step_are_one_row_and_what_is_missing_is_blank(tmp_path):
    logger = CSVLogger(tmp_path / "run")
    logger.log_metrics({"train/loss": 2.5, "tokens": 10}, step=1)
    logger.log_metrics({"val/loss": 3.5, "tokens": 10}, step=1)
    logger.log_metrics({"train/loss": 2.0, "tokens": 20}, step=2)
    logger.save()
    first, second = read(tmp_path / "run")
    assert (first["step"], first["train/loss"], first["val/loss"]) == ("1", "2.5", "3.5")
    assert (second["step"], second["train/loss"], second["val/loss"]) == ("2", "2.0", "")
    assert list(first) == list(COLUMNS)


def test_a_finished_row_is_on_disk_at_once(tmp_path):
    logger = CSVLogger(tmp_path)
    for step in range(1, 5):
        write(logger, [step])
        assert len(read(tmp_path)) == step - 1 if step > 1 else not (tmp_path / "x").exists()


def test_values_after_a_save_join_the_row_of_their_step(tmp_path):
    logger = CSVLogger(tmp_path)
    write(logger, [1, 2])
    logger.save()
    logger.log_metrics({"val/loss": 9.0}, step=2)
    write(logger, [3])
    logger.close()
    rows = read(tmp_path)
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    assert rows[1]["val/loss"] == "9.0"
    assert rows[1]["train/loss"] == repr(1 / 3)


def test_a_new_name_adds_a_column(tmp_path):
    logger = CSVLogger(tmp_path)
    write(logger, [1, 2])
    logger.log_metrics({"train/loss/forward_kl": 0.25}, step=3)
    write(logger, [4])
    logger.close()
    rows = read(tmp_path)
    assert [row["train/loss/forward_kl"] for row in rows] == ["", "", "0.25", ""]
    assert list(rows[0]) == [*COLUMNS, "train/loss/forward_kl"]


@pytest.mark.parametrize("kept", [0, 1, 3, 5, 9])
def test_resume_cuts_what_came_after_the_checkpoint(tmp_path, kept):
    first = CSVLogger(tmp_path)
    first.log_metrics({"new": 1.0}, step=0)
    write(first, range(1, 6))
    first.close()
    before = read(tmp_path)
    resumed = CSVLogger(tmp_path)
    resumed.cut_after(kept)
    write(resumed, range(kept + 1, 8))
    resumed.close()
    rows = read(tmp_path)
    last = min(kept, 5)
    assert rows[: last + 1 if kept else 0] == (before[: last + 1] if kept else [])
    steps = [int(row["step"]) for row in rows]
    assert steps == [*(range(last + 1) if kept else ()), *range(kept + 1, 8)]


def test_half_a_row_left_by_a_kill_is_dropped(tmp_path):
    first = CSVLogger(tmp_path)
    write(first, [1, 2])
    first.close()
    whole = (tmp_path / "metrics.csv").read_text(encoding="utf-8")
    (tmp_path / "metrics.csv").write_text(whole + '3,30,"0.2', encoding="utf-8")
    resumed = CSVLogger(tmp_path)
    resumed.cut_after(2)
    assert (tmp_path / "metrics.csv").read_text(encoding="utf-8") == whole


def test_a_logger_that_wrote_nothing_makes_no_file(tmp_path):
    logger = CSVLogger(tmp_path / "run")
    logger.cut_after(3)
    logger.save()
    logger.finalize("success")
    assert not (tmp_path / "run").exists()


def test_numbers_come_back_exactly(tmp_path):
    logger, value = CSVLogger(tmp_path), 0.1 + 0.2
    logger.log_metrics({"train/loss": value}, step=1)
    logger.close()
    assert float(read(tmp_path)[0]["train/loss"]) == value
