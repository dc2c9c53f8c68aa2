import logging

from mobilellm.compressor import progress


def test_long_work_is_told_and_quick_work_is_not(caplog, monkeypatch):
    clock = iter(range(0, 100, 4))
    monkeypatch.setattr(progress, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO):
        assert list(progress.told("abcde", "fitting layers")) == list("abcde")
    assert caplog.messages == ["fitting layers: 3 of 5"]
    caplog.clear()
    monkeypatch.setattr(progress, "monotonic", lambda: 0.0)
    with caplog.at_level(logging.INFO):
        assert list(progress.told("abc", "fitting layers")) == list("abc")
    assert not caplog.messages
