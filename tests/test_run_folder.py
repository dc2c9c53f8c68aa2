"""What a run's folder says of the run, and what may be written into it."""

import pytest

from mobilellm.checkpoint_files import CHECKPOINTS, LAST_CHECKPOINT
from mobilellm.run_folder import check_may_start, read_summary, write_summary
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
