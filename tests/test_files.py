"""Files are replaced as a whole or stay as they were."""

import errno
import os
import stat
import subprocess
import sys

import numpy as np
import pytest

from mobilellm.files import (
    atomic_write,
    is_temporary,
    remove_temporary_files,
    sole_writer,
    write_bytes_atomically,
    write_text_atomically,
)


def test_a_full_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_bytes_atomically(path, [b"old"])
    (tmp_path / f"file.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"file takes 27 B; about 5 MB are needed") as caught:
        write_bytes_atomically(path, [b"new", np.arange(3)], remaining_bytes=5_000_000)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == b"old"
    write_bytes_atomically(path, [b"new", np.arange(3, dtype=np.uint8)])
    assert path.read_bytes() == b"new\0\1\2"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_an_exception_keeps_the_old_file(tmp_path):
    path = tmp_path / "new/folder/file"
    write_text_atomically(path, "a\r\nb\n")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as temporary:
        temporary.write_text("half", encoding="utf-8")
        assert is_temporary(temporary.name, "file")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"a\r\nb\n"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_permissions_are_those_of_an_ordinary_file(tmp_path):
    (tmp_path / "ordinary").touch()
    path = tmp_path / "file"
    with atomic_write(path) as temporary:
        temporary.write_bytes(b"secret")
        temporary.chmod(0o600)
    ordinary = stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == ordinary


def test_the_contents_reach_the_disk_before_the_new_name(tmp_path, monkeypatch):
    order = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor):
        order.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        real_fsync(descriptor)

    def replace(source, target):
        order.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_text_atomically(tmp_path / "file", "text")
    assert order == ["file", "rename", "folder"]


def test_one_process_at_a_time_makes_a_file(tmp_path):
    path = tmp_path / "new/file"
    code = (
        "import sys, pathlib, mobilellm.files as files\n"
        "with files.sole_writer('--out', pathlib.Path(sys.argv[1])):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        message = r"another process writes --out=.*file; wait for it, or give another name"
        with pytest.raises(ValueError, match=message), sole_writer("--out", path):
            pytest.fail("it is locked")
        other.kill()
    with sole_writer("--out", path):
        assert [p.name for p in path.parent.iterdir()] == ["file.lock"]
    assert not list(path.parent.iterdir())


def test_temporary_files_of_killed_processes_are_removed(tmp_path):
    for name in ("last.ckpt.12.tmp", "last.ckpt", "inputs.json.3.tmp"):
        (tmp_path / name).touch()
    remove_temporary_files(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]
