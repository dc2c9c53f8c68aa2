import errno
import os
import pickle
import random

import numpy as np
import pytest

from mobilellm.data.shard_writer import ShardWriter
from mobilellm.data.shards import TokenStream, shard_path, token_dtype

SHARD = 64


def random_documents(seed, count=40, longest=50):
    generator = np.random.default_rng(seed)
    return [
        generator.integers(3, 400, generator.integers(1, longest)).astype("<u2")
        for _ in range(count)
    ]


def append_in_chunks(writer, documents, seed=0):
    """Documents in chunks, several chunks a call, as batches of text come."""
    generator = random.Random(seed)
    tokens, ends, size = [], [], 0
    for document in documents:
        cut = generator.randrange(len(document) + 1)
        for part, is_last in ((document[:cut], False), (document[cut:], True)):
            tokens.append(part)
            size += len(part)
            if is_last:
                ends.append(size)
            if generator.random() < 0.3:
                writer.append(np.concatenate(tokens), ends)
                tokens, ends, size = [], [], 0
    if tokens:
        writer.append(np.concatenate(tokens), ends)


def write(folder, documents, **kwargs):
    writer = ShardWriter(folder, "<u2", shard_tokens=SHARD)
    append_in_chunks(writer, documents[writer.documents_done :], **kwargs)
    return writer, writer.finish()


def check(folder, documents):
    whole = np.concatenate(documents)
    stream = TokenStream(folder, len(whole), "<u2", shard_tokens=SHARD)
    assert len(stream) == len(whole)
    assert np.array_equal(stream[:], whole)
    starts = np.cumsum([0, *map(len, documents)])[:-1]
    assert np.array_equal(stream.document_starts(), starts)
    return stream


@pytest.mark.parametrize("seed", range(8))
def test_shards_equal_the_documents_joined(tmp_path, seed):
    documents = random_documents(seed, longest=[2, 50, 300][seed % 3])
    writer, _ = write(tmp_path / "train", documents, seed=seed)
    assert writer.num_documents == len(documents)
    assert writer.num_tokens == sum(map(len, documents))
    stream = check(tmp_path / "train", documents)
    whole = np.concatenate(documents)
    generator = random.Random(seed)
    for _ in range(50):
        start, stop = sorted(generator.choices(range(-5, len(whole) + 5), k=2))
        assert np.array_equal(stream[start:stop], whole[start:stop])


def test_streams_can_be_pickled_and_read_again(tmp_path):
    documents = random_documents(0)
    write(tmp_path / "train", documents)
    stream = check(tmp_path / "train", documents)
    copy = pickle.loads(pickle.dumps(stream))
    assert np.array_equal(copy[10:200], stream[10:200])
    assert len(pickle.dumps(stream)) < 2000


@pytest.mark.parametrize("kept", [1, 2, 5])
@pytest.mark.parametrize("seed", range(6))
def test_interrupted_writing_goes_on_where_whole_shards_end(tmp_path, seed, kept):
    documents = random_documents(seed, longest=[3, 30, 300][seed % 3], count=[200, 40, 8][seed % 3])
    writer, expected = write(tmp_path / "whole", documents)
    num_shards = -(-writer.num_tokens // SHARD)
    write(tmp_path / "cut", documents)
    for shard in range(min(kept, num_shards - 1), num_shards):
        shard_path(tmp_path / "cut", shard).unlink()
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "cut").glob("*.tokens")}
    resumed, found = write(tmp_path / "cut", documents, seed=seed + 1)
    assert found == expected
    assert resumed.num_documents == len(documents)
    assert resumed.num_tokens == writer.num_tokens
    check(tmp_path / "cut", documents)
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


def test_a_half_written_shard_is_written_again(tmp_path):
    documents = random_documents(1)
    write(tmp_path / "train", documents)
    with shard_path(tmp_path / "train", 2).open("r+b") as file:
        file.truncate(10)
    write(tmp_path / "train", documents)
    check(tmp_path / "train", documents)


def test_resuming_with_other_text_is_refused(tmp_path):
    documents = random_documents(1)
    write(tmp_path / "train", documents)
    shard_path(tmp_path / "train", 3).unlink()
    done = ShardWriter(tmp_path / "train", "<u2", shard_tokens=SHARD).documents_done
    documents[done] = documents[done] + 1
    with pytest.raises(ValueError, match="are not those of this text; remove"):
        write(tmp_path / "train", documents)


def test_a_full_disk_keeps_what_is_written(tmp_path):
    documents = random_documents(2)
    folder = tmp_path / "train"
    folder.mkdir()
    (folder / f"00002.tokens.{os.getpid()}.tmp").symlink_to("/dev/full")
    with pytest.raises(
        OSError, match=r"00002.tokens takes 128 B; about .* needed in total, .* free"
    ) as e:
        write(folder, documents)
    assert e.value.errno == errno.ENOSPC
    assert sorted(path.name for path in folder.glob("*.tokens")) == ["00000.tokens", "00001.tokens"]
    write(folder, documents)
    check(folder, documents)


@pytest.mark.parametrize(("size", "name"), [(300, "<u2"), (65_536, "<u2"), (65_537, "<u4")])
def test_smallest_type(size, name):
    assert token_dtype(size) == np.dtype(name)
    assert np.array([size - 1]).astype(token_dtype(size))[0] == size - 1


def test_streams_that_are_damaged_are_refused(tmp_path):
    documents = random_documents(0)
    write(tmp_path / "train", documents)
    size = sum(map(len, documents))
    stream = TokenStream(tmp_path / "train", size, "<u2", shard_tokens=SHARD)
    with pytest.raises(TypeError, match="indexed with a slice of step 1, not with 3"):
        stream[3]
    with pytest.raises(TypeError, match="indexed with a slice of step 1"):
        stream[::2]
    with shard_path(tmp_path / "train", 1).open("r+b") as file:
        file.truncate(10)
    with pytest.raises(ValueError, match=r"00001.tokens has 10 bytes, which must be 128; remove"):
        TokenStream(tmp_path / "train", size, "<u2", shard_tokens=SHARD)
    shard_path(tmp_path / "train", 1).unlink()
    with pytest.raises(FileNotFoundError, match=r"00001.tokens is missing; remove"):
        TokenStream(tmp_path / "train", size, "<u2", shard_tokens=SHARD)
