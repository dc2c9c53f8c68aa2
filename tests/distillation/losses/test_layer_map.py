"""Layer maps: which application of the student learns from which of the teacher's."""

import random
from itertools import pairwise, product

import pytest
import torch

from mobilellm.distillation.losses.attention_kl import AttentionKL
from mobilellm.distillation.losses.hidden_state_mse import HiddenStateMSE
from mobilellm.distillation.losses.layer_map import UNIFORM, Explicit, Last, Uniform
from mobilellm.distillation.losses.loss import Structure

DEPTHS = range(1, 14)


def structure(num_layers, heads=4, **changes):
    facts = {"hidden_size": 8, "vocab_size": 30, "num_heads": (heads,) * num_layers}
    return Structure(num_layers=num_layers, **(facts | changes))


@pytest.mark.parametrize("student", DEPTHS)
def test_uniform(student):
    for teacher in DEPTHS:
        pairs = Uniform().pairs(student, teacher)
        assert [mine for mine, _ in pairs] == list(range(student))
        theirs = [layer for _, layer in pairs]
        assert all(0 <= layer < teacher for layer in theirs)
        assert theirs == sorted(theirs)
        assert theirs[-1] == teacher - 1
        if student <= teacher:
            assert len(set(theirs)) == student
            steps = [after - before for before, after in pairwise([-1, *theirs])]
            assert max(steps) - min(steps) <= 1
        else:
            assert set(theirs) == set(range(teacher))


def test_uniform_halves_as_distilberts_layers_do():
    # Each pair of the teacher's twelve layers becomes one, and learns from where the pair ends.
    assert Uniform().pairs(6, 12) == ((0, 1), (1, 3), (2, 5), (3, 7), (4, 9), (5, 11))
    assert Uniform().pairs(12, 12) == tuple((i, i) for i in range(12))
    assert Uniform().pairs(2, 1) == ((0, 0), (1, 0))


def test_last():
    for student, teacher, k in product(DEPTHS, DEPTHS, DEPTHS):
        if k > min(student, teacher):
            continue
        pairs = Last(k=k).pairs(student, teacher)
        assert pairs == tuple(zip(range(student)[-k:], range(teacher)[-k:], strict=True))


def test_explicit_pairs_are_taken_as_they_are():
    chosen = random.Random(0)
    for _ in range(20):
        layers = [[chosen.randrange(5), chosen.randrange(9)] for _ in range(3)]
        assert Explicit(layers=layers).pairs(5, 9) == tuple(map(tuple, layers))


def test_shared_blocks_count_by_application():
    # Two blocks run three times each are six layers.
    shared, teacher = structure(6), structure(3)
    loss = HiddenStateMSE()
    assert loss.pairs(shared, teacher) == ((0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (5, 2))
    states = [torch.full((1, 2, 8), float(i)) for i in range(6)]
    theirs = [torch.full((1, 2, 8), 10.0 * i) for i in range(3)]
    pairs = loss.pairs(shared, teacher)
    found = loss(
        [states[i] for i, _ in pairs], [theirs[j] for _, j in pairs],
        torch.ones(1, 2, dtype=torch.bool),
    )  # fmt: skip
    assert found == sum((i - 10 * (i // 2)) ** 2 for i in range(6))


def test_the_embedding_is_one_layer():
    loss = HiddenStateMSE(capture="embedding")
    assert loss.pairs(structure(6), structure(3)) == ((0, 0),)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Last(k=0), "k=0 must be a whole number of at least 1"),
        (lambda: Last(k=True), "k=True must be a whole number"),
        (
            lambda: Last(k=4).pairs(6, 3),
            r"k=4, but the student has 6 layers and the teacher 3; use k=3 or less",
        ),
        (lambda: Explicit(layers=[]), "layers is empty; give at least one pair"),
        (lambda: Explicit(layers=[[1, 2, 3]]), r"\[1, 2, 3\] must be a pair"),
        (lambda: Explicit(layers=[[1, 2.5]]), r"\[1, 2.5\] must be a pair"),
        (lambda: Explicit(layers=[3]), "3 must be a pair"),
        (
            lambda: Explicit(layers=[[2, 0]]).pairs(2, 3),
            "layer 2 of the student, which has 2 layers counted by application; use 0 to 1",
        ),
        (
            lambda: Explicit(layers=[[0, 3]]).pairs(2, 3),
            "layer 3 of the teacher, which has 3 layers",
        ),
        (lambda: Explicit(layers=[[0, -1]]).pairs(2, 3), "layer -1 of the teacher"),
        (
            lambda: HiddenStateMSE(capture="embedding", layers=Last()),
            "has no effect with capture=embedding, which is one tensor per model; leave layers out",
        ),
        (
            lambda: HiddenStateMSE(layers=Last(k=4)).check(structure(6), structure(3)),
            "use k=3 or less",
        ),
    ],
)
def test_maps_that_do_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_heads_are_compared_in_the_mapped_layers():
    student = structure(2, num_heads=(2, 4))
    teacher = structure(4, num_heads=(9, 2, 9, 4))
    AttentionKL().check(student, teacher)
    AttentionKL(layers=Last(k=1)).check(student, teacher)
    message = "layer 1 of the student has 4 heads, layer 2 of the teacher 9; use heads=mean"
    with pytest.raises(ValueError, match=message):
        AttentionKL(layers=Explicit(layers=[[1, 2]])).check(student, teacher)
    AttentionKL(layers=Explicit(layers=[[1, 2]]), heads="mean").check(student, teacher)
    AttentionKL().check(structure(3, hidden_size=8), structure(3, hidden_size=16))


def test_uniform_is_the_default():
    assert HiddenStateMSE().layers == UNIFORM == AttentionKL().layers
