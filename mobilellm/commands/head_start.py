"""Say how many tokens inherited weights save, as a function of the budget.

Compares runs of one shape that started from the weights of a larger model (init_from=…) with runs
from random weights, at several numbers of tokens, and writes a page.

  mobilellm extract outputs/supernet/<run> --out start model.num_blocks=4 model.hidden_size=64
  mobilellm train -m experiment=head_start
  mobilellm train -m experiment=head_start init_from=start
  mobilellm head-start outputs/head_start
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
    """Read the command line, compare the runs and print the comparison."""
    parser = command_parser("head_start", __doc__)
    parser.add_argument("paths", nargs="+", type=user_path, metavar="RUN_OR_SWEEP_DIR")
    parser.add_argument("--out", type=user_path, help="default: report/ in the first folder")
    options = parser.parse_args(arguments)

    from mobilellm.report.head_start import measure_head_start
    from mobilellm.report.head_start_page import (
        check_report_folder,
        sentences,
        table,
        write_report,
    )

    folder = options.out or options.paths[0] / "report"
    check_report_folder(folder)
    found = measure_head_start(options.paths)
    page = write_report(found, folder)
    console = make_console(80)
    console.print(table(found))
    for sentence in sentences(found):
        console.print(sentence)
    console.print(f"Page: {page}", soft_wrap=True)
