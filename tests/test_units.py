"""Numbers as text."""

import pytest

from mobilellm.units import (
    axis_text,
    bytes_text,
    clock_text,
    count_text,
    duration_text,
    elapsed_text,
    join_names,
    plural,
    rate_text,
    si_text,
)


@pytest.mark.parametrize(
    ("value", "count", "si", "size", "aligned"),
    [
        (12, "12", "12", "12 B", "12 B"),
        (999.6, "1.00k", "1 k", "1 kB", "1.00 kB"),
        (23_040, "23.0k", "23 k", "23 kB", "23.0 kB"),
        (1_700_000, "1.70M", "1.7 M", "1.7 MB", "1.70 MB"),
        (999_600_000, "1.00G", "1 G", "1 GB", "1.00 GB"),
        (3e19, "30.0E", "30 E", "30 EB", "30.0 EB"),
    ],
)
def test_counts_and_bytes(value, count, si, size, aligned):
    assert (count_text(value), si_text(value)) == (count, si)
    assert (bytes_text(value), bytes_text(value, aligned=True)) == (size, aligned)


@pytest.mark.parametrize(
    ("seconds", "duration", "clock", "elapsed"),
    [
        (0.5, "0.5 seconds", "0:00", "0 s"),
        (90, "1.5 minutes", "1:30", "1:30 min"),
        (7260, "2.0 hours", "2:01:00", "2:01 h"),
        (2e5, "2.3 days", "55:33:20", "55:33 h"),
        (4e7, "1.3 years", "11111:06:40", "11111:06 h"),
    ],
)
def test_durations(seconds, duration, clock, elapsed):
    assert duration_text(seconds) == duration
    assert clock_text(seconds) == clock
    assert elapsed_text(seconds) == elapsed


def test_what_is_not_known():
    assert {f(None) for f in (count_text, bytes_text, duration_text, rate_text)} == {"–"}


def test_rates_axes_and_lists():
    assert [rate_text(rate) for rate in (0.002, 3e-5)] == ["0.002", "3e-05"]
    assert [axis_text(value) for value in (0.2, 500_000)] == ["0.2", "500k"]
    assert [join_names(list("abc"[:n])) for n in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert [plural(1, "seed"), plural(3, "seed")] == ["1 seed", "3 seeds"]
