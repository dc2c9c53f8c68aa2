import json
import re

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mobilellm.layers import DENSE, parse_layer_shape
from mobilellm.layers.factorized import FactorizedLinear, FactorizedShape
from mobilellm.layers.kronecker import KroneckerLinear
from mobilellm.layers.masked import MaskedLinear, MaskedShape
from mobilellm.layers.part_shape import PartShape, low_rank_shape, part_with_right

PARTS = [
    PartShape(left=(3, 2), right=(5, 7)),
    PartShape(left=(2, 12), right=(9, 2), num_terms=2),
    PartShape(left=(12, 2), right=(2, 9), num_terms=3),
    PartShape(left=(1, 1), right=(13, 11)),
    PartShape(left=(6, 4), right=(2, 1)),
    low_rank_shape(11, 13, 4),
]


def measured_flops(part: PartShape, right_first: bool) -> int:
    """Multiplications and additions of one input vector, as torch counts them."""
    layer = KroneckerLinear.empty(part)
    layer._right_first = right_first
    with FlopCounterMode(display=False) as counter:
        layer(torch.zeros(1, layer.in_features))
    return counter.get_total_flops()


@pytest.mark.parametrize("part", PARTS, ids=str)
def test_a_part_counts_what_its_layer_has_and_runs(part):
    layer = KroneckerLinear.empty(part)
    assert layer.shape == part
    assert (layer.out_features, layer.in_features) == part.size
    assert part.parameters == sum(p.numel() for p in layer.parameters())
    orders = {first: measured_flops(part, first) for first in (False, True)}
    assert part.flops == orders[part.right_first] == min(orders.values())


def test_the_terms_of_an_exact_representation():
    assert PartShape(left=(3, 2), right=(5, 7)).max_terms == 6
    assert low_rank_shape(11, 13, 4).max_terms == 11


def test_low_rank_is_a_part():
    part = low_rank_shape(11, 13, 4)
    assert part.is_low_rank
    assert part.size == (11, 13)
    assert part.parameters == 4 * (11 + 13)
    assert not PartShape(left=(3, 2), right=(1, 7)).is_low_rank


@pytest.mark.parametrize("orders", [{}, {"row_permutation": True}, {"column_permutation": True}])
def test_shapes_go_through_json(orders):
    shape = FactorizedShape(
        parts=(low_rank_shape(12, 18, 2), PartShape(left=(4, 6), right=(3, 3))), **orders
    )
    values = shape.to_dict()
    assert set(values) == {"parts", *orders}
    assert parse_layer_shape(json.loads(json.dumps(values))) == shape
    assert parse_layer_shape(shape) is shape
    assert hash(parse_layer_shape(values)) == hash(shape)
    masked = MaskedShape(nonzero=7)
    assert parse_layer_shape(json.loads(json.dumps(masked.to_dict()))) == masked


def test_a_sum_counts_its_parts():
    parts = (low_rank_shape(12, 18, 2), PartShape(left=(4, 6), right=(3, 3)))
    shape = FactorizedShape(parts=parts)
    assert shape.size == (12, 18)
    assert shape.parameters == 2 * 30 + 24 + 9
    assert shape.flops == sum(part.flops for part in parts)
    assert str(shape) == "2 x (12x1)⊗(1x18) + 1 x (4x6)⊗(3x3)"
    assert str(MaskedShape(nonzero=5504)) == "5,504 kept"


def test_a_part_from_its_right_factor():
    part = part_with_right((12, 18), (3, 2), 4)
    assert part == PartShape(left=(4, 9), right=(3, 2), num_terms=4)
    assert part.size == (12, 18)


@pytest.mark.parametrize(
    ("right", "problem", "near"),
    [
        ((5, 2), "right factor (5, 2) does not divide a weight of 12x18: 12 rows are", {4, 6}),
        ((3, 4), "18 columns are not divisible by 4", {3}),
        ((0, 2), "12 rows are not divisible by 0", {1}),
    ],
)
def test_a_right_factor_must_divide(right, problem, near):
    with pytest.raises(ValueError, match=re.escape(problem)) as caught:
        part_with_right((12, 18), right)
    named = {int(n) for n in str(caught.value).split("use one of ")[1].split(", ")}
    assert near <= named
    assert all((12 if "rows" in problem else 18) % n == 0 for n in named)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: PartShape(left=(0, 2), right=(1, 1)), "left=(0, 2) must be two whole numbers"),
        (lambda: PartShape(left=(1, 2), right=(1,)), "right=(1,) must be two whole numbers"),
        (lambda: PartShape(left=(1, 2.0), right=(1, 1)), "left=(1, 2.0) must be two whole numbers"),
        (lambda: PartShape(left=(1, 2), right=(1, 1), num_terms=0), "num_terms=0 must be a whole"),
        (lambda: FactorizedShape(parts=()), "needs at least one part, but parts is empty"),
        (lambda: FactorizedShape(parts=(low_rank_shape(6, 4, 1), low_rank_shape(6, 5, 1))),
         "the parts have the sizes 6x4, 6x5; give parts of the same size"),
        (lambda: MaskedShape(nonzero=-1), "nonzero=-1 must be a whole number of at least 0"),
        (lambda: MaskedShape(nonzero=True), "nonzero=True must be a whole number of at least 0"),
        (lambda: parse_layer_shape({"rank": 3}), "give one of the keys parts, nonzero"),
        (lambda: parse_layer_shape({"nonzero": 3, "mask": 1}), "is not a compressed layer: "),
        (lambda: parse_layer_shape({"parts": [{"left": [1, 2], "rigth": [1, 1]}]}),
         "is not a compressed layer: "),
        (lambda: FactorizedShape(parts=(PartShape(left=5, right=(1, 1)),)),
         "left=(5,) must be two whole numbers"),
    ],
)  # fmt: skip
def test_shapes_are_checked(build, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build()


def test_a_shape_builds_its_layer():
    low_rank = FactorizedShape(parts=(low_rank_shape(6, 4, 2),))
    kinds = {DENSE: nn.Linear, low_rank: FactorizedLinear, MaskedShape(nonzero=3): MaskedLinear}
    for shape, kind in kinds.items():
        layer = shape.empty((6, 4), bias=True)
        assert type(layer) is kind
        assert layer(torch.zeros(2, 4)).shape == (2, 6)
        assert layer.bias.shape == (6,)
