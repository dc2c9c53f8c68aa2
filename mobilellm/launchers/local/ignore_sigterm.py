"""Imported by the fork server alone, before anything else.

A cluster sends SIGTERM to every process of a job, a terminal that is closed SIGHUP. The server
ignores them, since its death kills the trials, which want to save first; it ends when the sweep
closes its pipe.
"""

import signal

signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
