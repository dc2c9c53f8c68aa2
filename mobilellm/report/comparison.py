"""The result of `compare`: the analysis, with its representations for terminals and notebooks."""

from typing import TYPE_CHECKING

from rich.console import RenderableType

from mobilellm.report.analysis import Analysis
from mobilellm.report.latex import latex_pairs, latex_table
from mobilellm.report.records import pair_records, run_records
from mobilellm.report.table import terminal_report

if TYPE_CHECKING:
    import pandas as pd


class Comparison(Analysis):
    """The results of a comparison of runs.

    In a terminal, `rich.print(comparison)` shows tables, verdicts and cautions; the page in
    `comparison.page` adds plots. `findings`, `cautions`, `pairs` and `groups` are plain data.
    """

    def to_pandas(self, *, pairs: bool = False) -> "pd.DataFrame":
        """Return a table with one row per run and compressed model: the columns of comparison.csv.

        The column `shape` contains the label of the configuration. Losses are in nats per token
        (`val_loss`) and in bits per byte (`val_bits_per_byte`). Runs that were left out of the
        comparison are only in `left_out`.

        Args:
            pairs: return one row per pair instead, with the columns of pairs.csv: difference, ends
                of its interval, p-values and verdict.

        Raises:
            ModuleNotFoundError: pandas is not installed.
        """
        # Only needed here, and slow to import.
        import pandas as pd

        return pd.DataFrame(pair_records(self) if pairs else run_records(self))

    def to_latex(self, *, pairs: bool = False) -> str:
        r"""Return a LaTeX table with one row per configuration; it needs `\usepackage{booktabs}`.

        The columns are those of the table in the terminal. Losses are means over seeds with 95 %
        intervals.

        Args:
            pairs: return one row per pair instead, with its difference and verdict.

        Raises:
            ValueError: there are no finished runs, only compressed models; or there is no pair.
        """
        return latex_pairs(self.pairs) if pairs else latex_table(self.groups)

    def __rich__(self) -> RenderableType:
        """Return tables, verdicts and cautions for the terminal."""
        return terminal_report(self)
