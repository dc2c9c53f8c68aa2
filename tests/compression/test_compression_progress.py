import io
import logging
import sys

from mobilellm.compression import progress


def test_long_work_is_told_and_quick_work_is_not(caplog, monkeypatch):
    clock = iter(range(0, 100, 4))
    monkeypatch.setattr(progress, "monotonic", lambda: next(clock))
    with caplog.at_level(logging.INFO):
        assert list(progress.log_progress("abcde", "fitting layers")) == list("abcde")
    assert caplog.messages == ["fitting layers: 3 of 5, 8.0 seconds left"]
    caplog.clear()
    monkeypatch.setattr(progress, "monotonic", lambda: 0.0)
    with caplog.at_level(logging.INFO):
        assert list(progress.log_progress("abc", "fitting layers")) == list("abc")
    assert not caplog.messages


def test_on_a_terminal_there_is_a_bar(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(progress.log_progress("abcde", "fitting layers")) == list("abcde")
    assert "fitting layers" in sys.stderr.getvalue()
    assert "5/5" in sys.stderr.getvalue()
