"""Imported by the fork server alone, before anything else.

A cluster sends SIGTERM to every process of a job. The server ignores it, since its death kills the
trials, which want to save first; it ends when the sweep closes its pipe.
"""

import signal

signal.signal(signal.SIGTERM, signal.SIG_IGN)
