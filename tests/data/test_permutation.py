import numpy as np
import pytest

from mobilellm.data.permutation import permute


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 16, 17, 255, 256, 257, 1000, 4097, 100_003])
def test_every_entry_occurs_once(size):
    for seed, epoch in [(0, 0), (0, 1), (1, 0), (2**63, 12), (-1, 5)]:
        order = permute(np.arange(size), size, seed=seed, epoch=epoch)
        assert np.array_equal(np.sort(order), np.arange(size))


def test_any_part_can_be_computed_alone():
    whole = permute(np.arange(1000), 1000, seed=4, epoch=2)
    assert np.array_equal(permute(np.arange(313, 420), 1000, seed=4, epoch=2), whole[313:420])
    shaped = permute(np.array([[5, 9], [999, 0]]), 1000, seed=4, epoch=2)
    assert np.array_equal(shaped, whole[[[5, 9], [999, 0]]])


def test_order_does_not_depend_on_any_library_version():
    assert permute(np.arange(10), 10, seed=0, epoch=0).tolist() == [9, 0, 7, 6, 1, 8, 5, 2, 3, 4]


def test_seeds_and_epochs_differ():
    orders = {
        tuple(permute(np.arange(100), 100, seed=seed, epoch=epoch))
        for seed in range(10)
        for epoch in range(10)
    }
    assert len(orders) == 100


@pytest.mark.parametrize("size", [4, 50])
def test_every_place_gets_every_entry_equally_often(size):
    epochs = 1000
    orders = np.stack([permute(np.arange(size), size, seed=7, epoch=e) for e in range(epochs)])
    counts = np.stack([np.bincount(orders[:, place], minlength=size) for place in range(size)])
    expected = epochs / size
    chi_square = ((counts - expected) ** 2 / expected).sum()
    degrees = (size - 1) ** 2
    assert abs(chi_square - degrees) < 5 * np.sqrt(2 * degrees)


def test_neighbours_are_not_kept_together():
    order = permute(np.arange(10_000), 10_000, seed=0, epoch=0)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
    assert (np.abs(np.diff(order)) == 1).mean() < 0.002


def test_positions_outside_are_refused():
    with pytest.raises(ValueError, match=r"positions from 0 to 10 must lie in \[0, 10\)"):
        permute(np.arange(11), 10, seed=0, epoch=0)
