"""A store of sampled tokens: written, read, and refused where its weights would be biased."""

from dataclasses import replace

import pytest
import torch
from small_logit_store import SEQUENCE, K, inputs, logits
from torch.testing import assert_close

from mobilellm.distillation.logit_store.store import LogitStore
from mobilellm.distillation.logit_store.writer import LogitWriter
from mobilellm.distillation.losses.forward_kl import ForwardKL
from mobilellm.distillation.losses.reverse_kl import ReverseKL
from mobilellm.distillation.losses.sampling import sample_of
from mobilellm.distillation.teachers.teacher import StoredTeacher


def samples(window):
    offsets = torch.rand(SEQUENCE, generator=torch.Generator().manual_seed(window))
    return sample_of(logits()[window], K, offsets, temperature=2.0)


def test_a_store_gives_back_the_samples_and_refuses_losses_that_are_not_linear(tmp_path):
    writer = LogitWriter(tmp_path / "store", inputs(method="sampled", seed=3))
    for number in writer.missing:
        with writer.shard(number) as file:
            for window in writer.inputs.windows_of(number):
                file.append(samples(window))
    writer.finish()
    store = LogitStore(tmp_path / "store")
    found, expected = store.read([9]), samples(9)
    assert found.is_sample
    assert torch.equal(found.indices[0], expected.indices)
    assert_close(found.log_probabilities[0], expected.log_probabilities, rtol=1e-3, atol=1e-3)
    assert_close(found.log_probabilities.exp().sum(-1), torch.ones(1, SEQUENCE))
    structure = StoredTeacher(store).structure
    student = replace(structure, is_sampled=False, temperature=None)
    ForwardKL(temperature=2.0).check(student, structure)
    with pytest.raises(ValueError, match="ReverseKL with rest=bucket is biased on a logit store"):
        ReverseKL(temperature=2.0).check(student, structure)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "random"}, "method='random' is not known; use one of top_k, sampled"),
        ({"seed": 1}, "seed=1 has no effect with method=top_k"),
        ({"method": "sampled"}, "method=sampled needs a seed of at least 0, but seed=None"),
    ],
)
def test_choices_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        inputs(**changes)


def test_a_store_without_a_record_of_the_method_has_the_most_likely_tokens():
    known = inputs().to_dict()
    del known["method"], known["seed"]
    assert inputs().differences(known) == []
    changed = inputs(method="sampled", seed=0).differences(known)
    assert changed == ["method was top_k, now sampled", "seed was None, now 0"]
