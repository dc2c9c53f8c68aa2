"""Comparison of runs: statistics, fairness, table, plots and page.

`compare(paths, out)` reads any set of run or sweep folders and writes a folder with the report.
"""

from mobilellm.report.compare import compare
from mobilellm.report.comparison import Comparison

__all__ = ["Comparison", "compare"]
