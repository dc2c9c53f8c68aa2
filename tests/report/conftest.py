"""Reports of the tests measure no latencies, unless a test says so: that loads torch."""

from importlib import import_module

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_latencies():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mobilellm.report.latency.AUTOMATIC_SHAPES", 0)
        yield


@pytest.fixture
def without_plots(monkeypatch):
    """Reports with their tables and sentences alone."""
    # The package has a function of the module's name.
    module = import_module("mobilellm.report.compare")
    monkeypatch.setattr(module, "write_plots", lambda *_, **__: [])
