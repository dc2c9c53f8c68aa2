"""Show the state of every run below a folder: status, progress, rate, losses and age.

  mobilellm status outputs/depth_vs_width
  watch -n 10 mobilellm status outputs/depth_vs_width

For runs that were submitted to SLURM, it also asks SLURM: a run may be `queued` or `requeued`
(preempted; it continues when the cluster has room), and the reason is shown if its job ended
without recording one.

The runs of a sweep are identified by the settings in which they differ, one column each, and by
the hash at the end of their folders' names. A run is `silent` if it is recorded as running but has
written nothing for ten minutes: either it was killed, or its steps take long. `done` is the share
of its budget, `tok/s` its recent rate, and `age` the time since it last wrote something.
"""

import functools
from collections.abc import Sequence
from typing import NoReturn

from mobilellm.cli.command import run_command
from mobilellm.cli.console import make_console
from mobilellm.commands import command_parser
from mobilellm.paths import user_path


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit; `arguments` default to the command line."""
    run_command(functools.partial(run, arguments))


def run(arguments: Sequence[str] | None) -> None:
    """Read the command line and print the table."""
    parser = command_parser("status", __doc__)
    parser.add_argument("folder", type=user_path, metavar="DIR", help="a run's or a sweep's folder")
    folder = parser.parse_args(arguments).folder

    from mobilellm.launchers.monitor.status import status_table

    make_console(140).print(status_table(folder))
