"""The logit store: written in shards, read by window, refused where it does not belong."""

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mobilellm.distillation.logit_store.manifest import LogitInputs
from mobilellm.distillation.logit_store.store import LogitStore, is_logit_store
from mobilellm.distillation.logit_store.writer import LogitWriter
from mobilellm.distillation.losses.targets import TopK, top_k_of

WINDOWS, SEQUENCE, WORDS, K = 23, 6, 300, 5
BELONGS = {
    "vocab_size": WORDS,
    "sequence_length": SEQUENCE,
    "document_mask": False,
    "data_hash": "the data",
    "tokenizer_hash": "the tokenizer",
}


def _inputs(**changes) -> LogitInputs:
    options = {
        **BELONGS, "teacher_hash": "the teacher", "k": K, "precision": "fixed16",
        "packing": "plain", "temperature": 2.0, "num_windows": WINDOWS, "windows_per_shard": 4,
    }  # fmt: skip
    return LogitInputs(**{**options, **changes})


def _logits() -> torch.Tensor:
    return torch.randn(WINDOWS, SEQUENCE, WORDS, generator=torch.Generator().manual_seed(0)) * 5


def _tokens(window: int) -> TopK:
    return top_k_of(_logits()[window], K, temperature=2.0)


def _write_shard(writer: LogitWriter, number: int) -> None:
    with writer.shard(number) as file:
        for window in writer.inputs.windows_of(number):
            file.append(_tokens(window))


def _write(folder: Path, **changes) -> LogitStore:
    writer = LogitWriter(folder, _inputs(**changes))
    for number in writer.missing:
        _write_shard(writer, number)
    writer.finish()
    return LogitStore(folder)


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def store(tmp_path):
    return _write(tmp_path / "store")


@pytest.mark.parametrize("packing", ["plain", "bits"])
@pytest.mark.parametrize("precision", ["fixed16", "fixed8"])
@pytest.mark.parametrize("windows_per_shard", [1, 4, 23, 100])
def test_any_windows_in_any_order(tmp_path, packing, precision, windows_per_shard):
    """Against the teacher's own numbers, rounded."""
    store = _write(
        tmp_path / "store", packing=packing, precision=precision,
        windows_per_shard=windows_per_shard,
    )  # fmt: skip
    windows = [22, 0, 7, 7, 3, 19]
    found = store.read(torch.tensor(windows))
    expected = store.codec.rounded(top_k_of(_logits()[windows], K, temperature=2.0))
    assert found.indices.shape == (6, SEQUENCE, K)
    assert torch.equal(found.indices, expected.indices)
    assert torch.equal(found.log_probabilities, expected.log_probabilities)
    assert found.temperature == 2.0
    assert torch.equal(store.read(windows).indices, found.indices)
    assert len(store) == WINDOWS
    assert len(list(store.folder.glob("*.logits"))) == -(-WINDOWS // windows_per_shard)


@pytest.mark.parametrize("window", [-1, WINDOWS])
def test_a_window_that_is_not_there(store, window):
    with pytest.raises(IndexError, match=f"window {window} does not exist .* of {WINDOWS}"):
        store.read([window])


def test_another_process_reads_it(store):
    store.read([1])
    again = pickle.loads(pickle.dumps(store))
    assert torch.equal(again.read([5]).indices, store.read([5]).indices)


def test_what_the_manifest_says(store):
    manifest = json.loads((store.folder / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["bytes_per_token"] == 4 * K
    assert manifest["num_tokens"] == WINDOWS * SEQUENCE
    assert manifest["bytes"] == WINDOWS * SEQUENCE * 4 * K
    assert manifest["bytes"] == sum(path.stat().st_size for path in store.folder.glob("*.logits"))
    mass = (_logits() / 2).double().softmax(-1).topk(K).values.sum(-1).flatten().numpy()
    assert manifest["captured_mass"]["mean"] == pytest.approx(mass.mean(), abs=1e-3)
    lowest = np.percentile(mass, 5, method="inverted_cdf")
    assert manifest["captured_mass"]["percentile_5"] == pytest.approx(lowest, abs=2e-3)
    assert {*BELONGS} < {*manifest["inputs"]}


def test_it_belongs_to_its_own_data(store):
    store.check(**BELONGS)
    store.check(**BELONGS, teacher_hash="the teacher", temperature=2.0)
    store.check(**{**BELONGS, "tokenizer_hash": None})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 301}, "a teacher of vocab_size=300, not 301; use a student of vocab_size"),
        ({"tokenizer_hash": "b"}, "another tokenizer; prepare the data with the teacher's"),
        ({"data_hash": "b"}, "other training data; train on the data it was made from"),
        ({"sequence_length": 7}, "windows of 6 tokens, not of 7; use sequence_length=6"),
        ({"document_mask": True}, "data.document_mask=false; use the same in training"),
        ({"teacher_hash": "b"}, "another teacher; use its store"),
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"format": "mobilellm-logits", "version": 0}',
            "has version 0, and this program reads 1",
        ),
        ("{", "manifest.json is damaged"),
        ("[" * 100_000, "manifest.json is damaged"),
        ('{"format": "mobilellm-logits", "version": 1}', "is damaged .inputs is missing.; remove"),
    ],
)
def test_a_manifest_that_cannot_be_read(store, text, message):
    (store.folder / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        LogitStore(store.folder)


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        (["inputs", "k"], None, r"inputs.k is missing"),
        (["inputs", "k"], "many", r'inputs.k is "many"'),
        (["inputs", "k"], 0, r"k=0 must"),
        (["inputs", "document_mask"], 0, r"inputs.document_mask is 0"),
        (["inputs", "colour"], "red", r"inputs.colour is not known"),
        (["shards"], None, r"shards is missing"),
        (["shards", 0, "bytes"], None, r"shards\[0\].bytes is missing"),
        (["shards"], [], r"0 shards"),
        (["captured_mass", "mean"], None, r"captured_mass.mean is missing"),
    ],
)
def test_damaged_fields_of_a_manifest(store, path, value, fault):
    file = store.folder / "manifest.json"
    whole = file.read_text(encoding="utf-8")
    record = json.loads(whole)
    *parents, last = path
    place = record
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    file.write_text(json.dumps(record), encoding="utf-8")
    try:
        with pytest.raises(ValueError, match=rf"manifest.json is damaged \({fault}.*\); remove it"):
            LogitStore(store.folder)
    finally:
        file.write_text(whole, encoding="utf-8")


def test_a_store_cut_short_is_found_and_gone_on_with(tmp_path, store):
    writer = LogitWriter(tmp_path / "cut", _inputs())
    for number in (0, 1, 4):
        _write_shard(writer, number)
    with pytest.raises(RuntimeError, match="the machine died"), writer.shard(2) as file:
        file.append(_tokens(8))
        raise RuntimeError("the machine died")
    # What a kill leaves behind: half a file beside its place, and one of another size.
    (tmp_path / "cut/00003.logits.tmp").write_bytes(b"half")
    (tmp_path / "cut/00005.logits").write_bytes(b"half")
    assert is_logit_store(tmp_path / "cut")
    with pytest.raises(ValueError, match=r"not finished: it holds 3 of 6 shards; run the same"):
        LogitStore(tmp_path / "cut")
    again = LogitWriter(tmp_path / "cut", _inputs())
    assert again.missing == [2, 3, 5]
    with pytest.raises(ValueError, match=r"shards \[2, 3, 5\] are missing"):
        again.finish()
    kept = (tmp_path / "cut/00000.logits").stat().st_mtime_ns
    _write(tmp_path / "cut")
    assert (tmp_path / "cut/00000.logits").stat().st_mtime_ns == kept
    assert _files(tmp_path / "cut") == _files(store.folder)
    LogitStore(tmp_path / "cut").verify()


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
    _write(store.folder).verify()


def test_a_shard_that_is_gone_or_cut(store):
    path = store.folder / "00003.logits"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"00003.logits has 479 bytes and must have 480; remove"):
        LogitStore(store.folder)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"00003.logits is missing; remove manifest.json"):
        LogitStore(store.folder)


def test_other_inputs_do_not_mix(store):
    before = _files(store.folder)
    with pytest.raises(ValueError, match=r"other inputs: k was 5, now 6; choose another out, or"):
        LogitWriter(store.folder, _inputs(k=6, windows_per_shard=3))
    with pytest.raises(ValueError, match="other inputs: windows_per_shard was 4, now 3"):
        LogitWriter(store.folder, _inputs(windows_per_shard=3))
    assert _files(store.folder) == before


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(ValueError, match=r"holds other files, such as thesis.txt; choose a new"):
        LogitWriter(tmp_path / "mine", _inputs())
    with pytest.raises(ValueError, match=r"thesis.txt is a file; choose a folder"):
        LogitWriter(tmp_path / "mine/thesis.txt", _inputs())
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_shard_of_the_wrong_length_never_takes_its_place(tmp_path):
    writer = LogitWriter(tmp_path / "store", _inputs())
    with (
        pytest.raises(ValueError, match="shard 0 got 120 bytes instead of 480"),
        writer.shard(0) as file,
    ):
        file.append(_tokens(0))
    assert sorted(path.name for path in writer.folder.iterdir()) == ["inputs.json"]


def test_logits_that_are_not_numbers(tmp_path):
    writer = LogitWriter(tmp_path / "store", _inputs())
    broken = TopK(torch.zeros(1, K, dtype=torch.int64), torch.full((1, K), torch.nan))
    with pytest.raises(ValueError, match="logits contain NaN"), writer.shard(0) as file:
        file.append(broken)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0 must be positive"),
        ({"num_windows": 0}, "num_windows=0 must be at least 1"),
        ({"k": 301}, "k=301 is above vocab_size=300"),
    ],
)
def test_inputs_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        _inputs(**change)


def test_a_store_can_be_moved(store, tmp_path):
    expected = store.read([9]).log_probabilities.clone()
    shutil.move(store.folder, tmp_path / "moved")
    assert torch.equal(LogitStore(tmp_path / "moved").read([9]).log_probabilities, expected)
