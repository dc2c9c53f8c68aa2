"""What a run's folder says of the run, and what may be written into it."""

import pytest

from mobilellm.checkpoint_files import CHECKPOINTS, LAST_CHECKPOINT
from mobilellm.provenance import SNAPSHOT
from mobilellm.run_folder import check_may_start, folders_with, read_summary, write_summary
from mobilellm.run_lock import lock_run_folder


def test_nothing_is_overwritten(tmp_path):
    check_may_start(tmp_path, resume=False)
    (tmp_path / CHECKPOINTS).mkdir()
    (tmp_path / CHECKPOINTS / LAST_CHECKPOINT).touch()
    with pytest.raises(ValueError, match="unfinished run; continue it with resume=true"):
        check_may_start(tmp_path, resume=False)
    check_may_start(tmp_path, resume=True)
    write_summary(tmp_path, {"status": "finished"})
    for resume in (True, False):
        with pytest.raises(ValueError, match="is a finished run and is never overwritten"):
            check_may_start(tmp_path, resume=resume)


def test_hidden_folders_and_copies_of_the_code_are_not_searched(tmp_path):
    """A clone may hold committed runs, and jobs on a cluster run from a copy of the clone."""
    copy = tmp_path / "slurm" / "code-1"
    for folder in ("b/x", "a", "b/.hydra", "slurm/code-1/docs/results/y"):
        (tmp_path / folder).mkdir(parents=True)
        write_summary(tmp_path / folder, {})
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "metrics.csv").touch()
    (copy / SNAPSHOT).touch()
    found = list(folders_with("summary.json", "metrics.csv", below=tmp_path))
    assert found == [tmp_path / name for name in ("a", "b/x", "c")]
    assert list(folders_with("summary.json", below=tmp_path / "a")) == [tmp_path / "a"]
    assert list(folders_with("summary.json", below=copy)) == [copy / "docs/results/y"]


def test_a_broken_summary_is_named(tmp_path):
    assert read_summary(tmp_path) is None
    (tmp_path / "summary.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"summary\.json is not JSON .* remove the file to run"):
        read_summary(tmp_path)


def test_one_process_at_a_time_trains_in_a_folder(tmp_path):
    refused = pytest.raises(ValueError, match=r"another process is training in .*; wait for it")
    with lock_run_folder(tmp_path), refused, lock_run_folder(tmp_path):
        pass
    with lock_run_folder(tmp_path):
        pass
