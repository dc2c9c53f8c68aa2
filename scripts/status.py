"""The state of a sweep: status, job, progress, rate, losses and age of every run below a folder.

  python scripts/status.py outputs/depth_vs_width
  watch -n 10 python scripts/status.py outputs/depth_vs_width

Of runs submitted to SLURM it also asks SLURM: `queued`, `requeued` (preempted, it goes on when its
turn comes), and how a job ended that could not say so itself.

A sweep's runs are told apart by the settings in which they differ, a column each, and by the hash
at the end of their folders' names. A run is `silent` that has written nothing for ten minutes
though it says that it runs: it was killed, or its steps are long. `done` is the share of its
budget, `tok/s` its rate lately, `age` the time since it last wrote something.
"""

import argparse
import sys

sys.path.pop(0)  # this folder: no script may hide a module

from mobilellm.cli.command import run_command
from mobilellm.paths import user_path


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=user_path, metavar="DIR", help="a run's or a sweep's folder")
    folder = parser.parse_args().folder

    from rich.console import Console

    from mobilellm.launchers.monitor.status import status_table

    Console(width=None if sys.stdout.isatty() else 140, highlight=False).print(status_table(folder))


if __name__ == "__main__":
    run_command(main)
