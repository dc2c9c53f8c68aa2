"""Imported only by the fork server, before anything else.

A cluster sends SIGTERM to every process of a job, and a closed terminal sends SIGHUP. The server
ignores both, because the trials are killed when it ends, before they could save. It ends when the
sweep closes its pipe.
"""

import signal

signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
