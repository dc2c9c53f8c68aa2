"""The logit store: read by window, and refused where it does not belong."""

import pickle
import shutil

import pytest
import torch
from small_logit_store import BELONGS, SEQUENCE, WINDOWS, K, logits, write

from mobilellm.distillation.logit_store.store import LogitStore, is_logit_store
from mobilellm.distillation.losses.targets import top_k_of


@pytest.mark.parametrize("packing", ["plain", "bits"])
@pytest.mark.parametrize("precision", ["fixed16", "fixed8"])
@pytest.mark.parametrize("windows_per_shard", [1, 4, 23, 100])
def test_any_windows_in_any_order(tmp_path, packing, precision, windows_per_shard):
    """Against the teacher's own numbers, rounded."""
    store = write(
        tmp_path / "store", packing=packing, precision=precision,
        windows_per_shard=windows_per_shard,
    )  # fmt: skip
    windows = [22, 0, 7, 7, 3, 19]
    found = store.read(torch.tensor(windows))
    expected = store.codec.rounded(top_k_of(logits()[windows], K, temperature=2.0))
    assert found.indices.shape == (6, SEQUENCE, K)
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(found.log_probabilities, expected.log_probabilities)
    assert found.temperature == 2.0
    assert torch.equal(store.read(windows).indices, found.indices)
    assert len(store) == WINDOWS
    assert len(list(store.folder.glob("*.logits"))) == -(-WINDOWS // windows_per_shard)


@pytest.mark.parametrize("window", [-1, WINDOWS])
def test_a_window_that_is_not_there(store, window):
    with pytest.raises(IndexError, match=f"window {window} does not exist; .* has {WINDOWS}"):
        store.read([window])


def test_another_process_reads_it(store):
    store.read([1])
    again = pickle.loads(pickle.dumps(store))
    assert torch.equal(again.read([5]).indices, store.read([5]).indices)


def test_it_belongs_to_its_own_data(store):
    store.check(**BELONGS)
    store.check(**BELONGS, teacher_hash="the teacher", temperature=2.0)
    store.check(**{**BELONGS, "tokenizer_hash": None})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 301}, "a teacher with vocab_size=300, not 301; use a student with"),
        ({"tokenizer_hash": "b"}, "another tokenizer; prepare the data with the teacher's"),
        ({"data_hash": "b"}, "other training data; train on that data"),
        ({"sequence_length": 7}, "windows of 6 tokens, not of 7; use sequence_length=6"),
        ({"document_mask": True}, "data.document_mask=false; use the same value in training"),
        ({"teacher_hash": "b"}, "another teacher; use the store of"),
        ({"temperature": 1.0}, "temperature=2, not 1; use the same"),
    ],
)
def test_what_it_does_not_belong_to(store, change, message):
    with pytest.raises(ValueError, match=message) as caught:
        store.check(**{**BELONGS, **change})
    assert str(store.folder) in str(caught.value)


def test_no_store(tmp_path, store):
    (tmp_path / "empty").mkdir()
    (tmp_path / "data").mkdir()
    # A folder of prepared data has files of the same names.
    (tmp_path / "data/manifest.json").write_text('{"inputs": {"version": 1}}', encoding="utf-8")
    for name, what in (
        ("nowhere", "does not exist"),
        ("empty", "is empty"),
        ("data", "holds no logit store"),
    ):
        assert not is_logit_store(tmp_path / name)
        with pytest.raises(FileNotFoundError, match=f"{name} {what}; make a store with mobilellm"):
            LogitStore(tmp_path / name)
    assert is_logit_store(store.folder)


def test_a_changed_byte_is_found(store):
    store.verify()
    path = store.folder / "00002.logits"
    data = bytearray(path.read_bytes())
    data[17] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"00002.logits has changed since it was written; remove"):
        LogitStore(store.folder).verify()
    # The remedy that the message names.
    path.unlink()
    (store.folder / "manifest.json").unlink()
    write(store.folder).verify()


def test_a_shard_that_is_gone_or_cut(store):
    path = store.folder / "00003.logits"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"00003.logits has 479 bytes and must have 480; remove"):
        LogitStore(store.folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"00003.logits is missing; remove manifest.json"):
        LogitStore(store.folder)


def test_a_store_can_be_moved(store, tmp_path):
    expected = store.read([9]).log_probabilities.clone()
    shutil.move(store.folder, tmp_path / "moved")
    assert torch.equal(LogitStore(tmp_path / "moved").read([9]).log_probabilities, expected)
