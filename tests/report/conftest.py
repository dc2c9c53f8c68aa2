"""Reports of the tests measure no latencies, unless a test says so: that loads torch."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_latencies():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mobilellm.report.latency.AUTOMATIC_SHAPES", 0)
        yield


@pytest.fixture
def without_plots(monkeypatch):
    """Reports with their tables and sentences alone."""
    monkeypatch.setattr("mobilellm.report.compare.write_plots", lambda *_, **__: [])
