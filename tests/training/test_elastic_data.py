"""Four ranks, then two, then three train on exactly the samples that one trains on alone.

For text, mixtures, packed rationales and a teacher's store, at random places and micro-batch sizes.
"""

import random
from collections import Counter
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from question_rows import config_for

from mobilellm.data import MixtureData, TextData, TextFiles, prepare_data
from mobilellm.distillation.logit_store.manifest import LogitInputs
from mobilellm.distillation.logit_store.store import LogitStore
from mobilellm.distillation.logit_store.writer import LogitWriter
from mobilellm.distillation.losses.targets import top_k_of
from mobilellm.training.datamodule import TokenDataModule

LENGTH, SAMPLES, RANKS = 64, 12, (4, 2, 3)


def text(corpus, tmp_path):
    settings = {"document": "blank_line", "held_out": 0.2, "vocab_size": 300}
    path = str(corpus / "csv.txt")
    return prepare_data(TextData(train=path, prepared_dir=str(tmp_path), **settings))


def mixture(corpus, tmp_path):
    sources = {
        name: TextFiles(train=str(corpus / f"{name}.txt"), document="blank_line")
        for name in ("ast", "csv")
    }
    settings = {"weights": {"ast": 1, "csv": 3}, "held_out": 0.2, "vocab_size": 300}
    return prepare_data(MixtureData(sources=sources, prepared_dir=str(tmp_path), **settings))


def rationales(corpus, tmp_path):
    return prepare_data(config_for(tmp_path))


@pytest.fixture(scope="module", params=[text, mixture, rationales], ids=lambda make: make.__name__)
def prepared(request, corpus, tmp_path_factory):
    return request.param(corpus, tmp_path_factory.mktemp("elastic"))


def data_at(prepared, length, *, size, rank=0, ranks=1, state=None):
    """The data module of one rank, as it is when a run starts or goes on."""
    data = TokenDataModule(
        prepared, sequence_length=length, micro_batch_size=size, samples_per_step=SAMPLES, seed=7
    )
    device = SimpleNamespace(root_device=torch.device("cpu"))
    step = 0 if state is None else state["consumed_samples"] // SAMPLES
    data.trainer = SimpleNamespace(  # pyright: ignore[reportAttributeAccessIssue]
        global_rank=rank, world_size=ranks, global_step=step, strategy=device
    )
    if state is not None:
        data.load_state_dict(state)
    return data


def samples(step):
    """Each sample of a step, by the number of its window and all that is in it."""
    return Counter(
        tuple((name, tuple(values[row].flatten().tolist())) for name, values in batch.items())
        for batch in step
        for row in range(len(batch["window"]))
    )


def steps_of(prepared, length, rng):
    """The samples of each step, the number of ranks changing twice."""
    steps, state = [], None
    for ranks in RANKS:
        share = SAMPLES // ranks
        size = rng.choice([n for n in range(1, share + 1) if share % n == 0])
        many = [
            data_at(prepared, length, size=size, rank=rank, ranks=ranks, state=state)
            for rank in range(ranks)
        ]
        loaders = [iter(data.train_dataloader()) for data in many]
        for _ in range(rng.randint(1, 9)):
            parts = [next(loader) for loader in loaders]
            assert all(len(part) == share // size for part in parts)
            steps.append(sum((samples(part) for part in parts), Counter()))
            for data in many:
                data.trainer.global_step += 1  # pyright: ignore
        states = [data.state_dict() for data in many]
        assert all(other == states[0] for other in states)
        state = states[0]
    assert state == {"consumed_samples": len(steps) * SAMPLES}
    return steps


@pytest.mark.parametrize("seed", range(8))
def test_four_two_and_three_ranks_see_what_one_sees(prepared, seed):
    length = 256 if "tasks" in prepared.windows("train", 256)[0] else LENGTH
    steps = steps_of(prepared, length, random.Random(seed))
    alone = data_at(prepared, length, size=SAMPLES)
    expected = [samples(step) for step in islice(alone.train_dataloader(), len(steps))]
    assert steps == expected
    windows = len(alone.train_windows)
    seen = Counter(dict(sample)["window"] for step in steps for sample in step.elements())
    epochs, rest = divmod(len(steps) * SAMPLES, windows)
    assert sorted(seen.values(), reverse=True) == sorted(
        [epochs + (n < rest) for n in range(windows) if epochs or n < rest], reverse=True
    )


@pytest.mark.parametrize("seed", range(3))
def test_a_teachers_store_is_read_by_the_same_windows(corpus, tmp_path, seed):
    data = text(corpus, tmp_path)
    windows = len(data.windows("train", LENGTH))
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(windows, LENGTH, 300, generator=generator)
    inputs = LogitInputs(
        vocab_size=300, sequence_length=LENGTH, document_mask=False, data_hash="d",
        tokenizer_hash="t", teacher_hash="t", k=3, precision="fixed16", packing="plain",
        temperature=1.0, num_windows=windows, windows_per_shard=7,
    )  # fmt: skip
    writer = LogitWriter(tmp_path / "store", inputs)
    for number in writer.missing:
        with writer.shard(number) as file:
            for window in inputs.windows_of(number):
                file.append(top_k_of(logits[window], 3, temperature=1.0))
    writer.finish()
    store = LogitStore(tmp_path / "store")
    for step in steps_of(data, LENGTH, random.Random(seed)):
        numbers = [dict(sample)["window"][0] for sample in step.elements()]
        best = store.read(torch.tensor(numbers)).indices[..., 0]
        assert torch.equal(best.long(), logits[numbers].argmax(-1))


def test_samples_that_ranks_do_not_divide_are_refused(corpus, tmp_path):
    data = data_at(text(corpus, tmp_path), LENGTH, size=4, rank=1, ranks=2)
    with pytest.raises(ValueError, match="samples_per_step=12 must be divisible by world_size=2 t"):
        data.train_dataloader()
