"""The orders of the sharing schemes, stated one by one, and what an order has to be."""

import pytest
from reference_models import make_config

from mobilellm.models.sharing import (
    SHARING_SCHEMES,
    is_closed_under_removal,
    order_of_layers,
    order_without,
)

ORDERS = {
    ("immediate", 3, 1): (0, 1, 2),
    ("immediate", 3, 2): (0, 0, 1, 1, 2, 2),
    ("immediate", 2, 3): (0, 0, 0, 1, 1, 1),
    ("repeat_all", 3, 1): (0, 1, 2),
    ("repeat_all", 3, 2): (0, 1, 2, 0, 1, 2),
    ("repeat_all", 2, 3): (0, 1, 0, 1, 0, 1),
    ("reverse", 3, 1): (0, 1, 2),
    ("reverse", 3, 2): (0, 1, 2, 2, 1, 0),
    ("reverse", 2, 3): (0, 1, 1, 0, 0, 1),
}


@pytest.mark.parametrize(("scheme", "num_blocks", "block_repeats"), ORDERS)
def test_the_order_of_every_scheme(scheme, num_blocks, block_repeats):
    wanted = ORDERS[scheme, num_blocks, block_repeats]
    config = make_config(layer_sharing=scheme, num_blocks=num_blocks, block_repeats=block_repeats)
    assert config.layer_order == wanted
    assert config.num_layers == len(wanted)
    assert config.block_uses == (block_repeats,) * num_blocks
    assert config.is_shared == (block_repeats > 1)


def test_every_scheme_has_its_order_stated_here():
    assert {scheme for scheme, _, _ in ORDERS} == set(SHARING_SCHEMES)


@pytest.mark.usefixtures("uneven_schemes")
def test_a_scheme_may_use_blocks_unequally_often():
    config = make_config(layer_sharing="sandwich", num_blocks=4, block_repeats=2)
    assert config.layer_order == (0, 1, 2, 1, 2, 3)
    assert (config.num_layers, config.block_uses) == (6, (1, 2, 2, 1))
    config = make_config(layer_sharing="last_first", num_blocks=4, block_repeats=2)
    assert config.layer_order == (3, 2, 1, 0, 0, 2)
    assert config.block_uses == (2, 1, 2, 1)
    assert config.is_shared
    assert not make_config(layer_sharing="sandwich", block_repeats=1).is_shared


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ((0, 1), "gives the order 0 1, which lacks block 2; the scheme's function must"),
        ((0, 1, 2, 3), "gives the order 0 1 2 3; the scheme's function must return block indices"),
        ((0, 1, 2, -1), "must return block indices from 0 to 2"),
        ((), "which lacks block 0"),
        ((2, 1, 0) * 30, None),
    ],
)
def test_an_order_names_the_stored_blocks_and_all_of_them(monkeypatch, order, message):
    monkeypatch.setitem(SHARING_SCHEMES, "given", lambda num_blocks, block_repeats: order)
    if message is None:
        assert make_config(layer_sharing="given").num_layers == 90
        return
    with pytest.raises(ValueError, match=message):
        make_config(layer_sharing="given")


def test_an_order_without_some_blocks():
    assert order_without((0, 1, 2, 1, 2, 3), (0, 2, 3)) == (0, 1, 1, 2)
    assert order_without((3, 2, 1, 0, 0, 2), (1, 2)) == (1, 0, 1)


@pytest.mark.usefixtures("uneven_schemes")
@pytest.mark.parametrize("scheme", [*SHARING_SCHEMES, "sandwich", "last_first"])
@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_closed_schemes_are_those_that_any_choice_of_blocks_agrees_with(scheme, repeats):
    def agrees(kept):
        longer = order_of_layers(scheme, 5, repeats)
        return order_without(longer, kept) == order_of_layers(scheme, len(kept), repeats)

    every = [[b for b in range(5) if mask >> b & 1] for mask in range(1, 32)]
    for fewest in range(1, 6):
        wanted = all(agrees(kept) for kept in every if len(kept) >= fewest)
        assert is_closed_under_removal(scheme, 5, repeats, fewest) == wanted
