"""Logit stores are written in shards, continued if cut short, and never mixed with other files."""

import pytest
import torch
from small_logit_store import K, files, inputs, tokens, write, write_shard

from mobilellm.distillation.logit_store.store import LogitStore, is_logit_store
from mobilellm.distillation.logit_store.writer import LogitWriter
from mobilellm.distillation.losses.targets import TopK


def test_a_store_cut_short_is_found_and_gone_on_with(tmp_path, store):
    writer = LogitWriter(tmp_path / "cut", inputs())
    for number in (0, 1, 4):
        write_shard(writer, number)
    with pytest.raises(RuntimeError, match="the machine died"), writer.shard(2) as file:
        file.append(tokens(8))
        raise RuntimeError("the machine died")
    # What a kill leaves behind: half a file beside its place, and one of another size.
    (tmp_path / "cut/00003.logits.tmp").write_bytes(b"half")
    (tmp_path / "cut/00005.logits").write_bytes(b"half")
    assert is_logit_store(tmp_path / "cut")
    with pytest.raises(ValueError, match=r"not finished: it holds 3 of 6 shards; run the same"):
        LogitStore(tmp_path / "cut")
    again = LogitWriter(tmp_path / "cut", inputs())
    assert again.missing == [2, 3, 5]
    with pytest.raises(ValueError, match=r"shards \[2, 3, 5\] are missing"):
        again.finish()
    kept = (tmp_path / "cut/00000.logits").stat().st_mtime_ns
    write(tmp_path / "cut")
    assert (tmp_path / "cut/00000.logits").stat().st_mtime_ns == kept
    assert files(tmp_path / "cut") == files(store.folder)
    LogitStore(tmp_path / "cut").verify()


def test_other_inputs_do_not_mix(store):
    before = files(store.folder)
    with pytest.raises(
        ValueError, match=r"other inputs: k was 5, now 6; choose another folder \(out="
    ):
        LogitWriter(store.folder, inputs(k=6, windows_per_shard=3))
    with pytest.raises(ValueError, match="other inputs: windows_per_shard was 4, now 3"):
        LogitWriter(store.folder, inputs(windows_per_shard=3))
    assert files(store.folder) == before


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(ValueError, match=r"holds other files, such as thesis.txt; choose a new"):
        LogitWriter(tmp_path / "mine", inputs())
    with pytest.raises(ValueError, match=r"thesis.txt is a file; choose a folder"):
        LogitWriter(tmp_path / "mine/thesis.txt", inputs())
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_shard_of_the_wrong_length_never_takes_its_place(tmp_path):
    writer = LogitWriter(tmp_path / "store", inputs())
    with (
        pytest.raises(ValueError, match="shard 0 got 120 bytes instead of 480"),
        writer.shard(0) as file,
    ):
        file.append(tokens(0))
    assert sorted(path.name for path in writer.folder.iterdir()) == ["inputs.json"]


def test_logits_that_are_not_numbers(tmp_path):
    writer = LogitWriter(tmp_path / "store", inputs())
    broken = TopK(torch.zeros(1, K, dtype=torch.int64), torch.full((1, K), torch.nan))
    with pytest.raises(ValueError, match="logits contain NaN"), writer.shard(0) as file:
        file.append(broken)
