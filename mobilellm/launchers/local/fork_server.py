"""The process that trials are forked from: it has the heavy modules loaded."""

import os
import signal
from collections.abc import Sequence
from multiprocessing import forkserver

from mobilellm.launchers.local.trial_process import thread_environment

# The first changes how the server takes signals; the others are what every trial needs.
ALWAYS_LOADED = (
    "mobilellm.launchers.local.ignore_sigterm",
    "mobilellm.launchers.local.trial_process",
    "hydra.core.utils",
)


def start_fork_server(preload: Sequence[str], threads: int) -> None:
    """Start loading in the background, unless the server runs already.

    Args:
        preload: modules to import there; one that does not exist is passed over.
        threads: CPU threads that the numerical libraries are loaded for.
    """
    forkserver.set_forkserver_preload([*ALWAYS_LOADED, *preload])
    with thread_environment(threads):
        forkserver.ensure_running()


def kill_fork_server() -> None:
    """End the server where no trial will be started: it may be busy loading for seconds."""
    pid = getattr(forkserver._forkserver, "_forkserver_pid", None)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
