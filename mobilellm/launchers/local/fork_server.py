"""The process that trials are forked from, which has loaded the heavy modules."""

import os
import signal
from collections.abc import Sequence
from multiprocessing import forkserver

from mobilellm.launchers.local.trial_process import thread_environment

# The first sets how the server handles signals; every trial needs the second.
ALWAYS_LOADED = (
    "mobilellm.launchers.local.ignore_sigterm",
    "mobilellm.launchers.local.trial_process",
)


def start_fork_server(preload: Sequence[str], threads: int) -> None:
    """Start the server in the background, unless it is already running.

    Args:
        preload: modules to import there; one that does not exist is skipped.
        threads: CPU threads of the numerical libraries, which read it when they are loaded.
    """
    forkserver.set_forkserver_preload([*ALWAYS_LOADED, *preload])
    with thread_environment(threads):
        forkserver.ensure_running()


def kill_fork_server() -> None:
    """End the server if no trial will be started; it may still be loading modules."""
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
