"""metrics.csv: one row per logged step, continued on resume."""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from mobilellm.files import write_text_atomically

COLUMNS = (
    "step", "tokens", "seconds", "train/loss", "val/loss", "val/bits_per_byte", "learning_rate",
    "tokens_per_second", "gradient_norm",
)  # fmt: skip


class CSVLogger(Logger):
    """Writes `metrics.csv` into a folder.

    All values of a step are in one row; missing values are blank. A new name adds a column. Every
    finished row is written to disk immediately.

    Args:
        folder: the run's folder.
    """

    def __init__(self, folder: str | Path) -> None:
        """Keep the folder; the file is created with the first row."""
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._columns: list[str] = list(COLUMNS)
        self._row: dict[str, Any] = {}
        self._header_written = False

    @property
    def name(self) -> str:
        """The kind of logger."""
        return "csv"

    @property
    def version(self) -> str:
        """Empty: there is one file, which a resumed run continues."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: config.yaml contains the settings."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Add values to the row of `step`, after writing the row of an earlier step."""
        if self._row and self._row["step"] != step:
            self._write_row()
        self._row |= {"step": step, **metrics}

    @rank_zero_only
    def save(self) -> None:
        """Write the current row; if more values of its step follow, the row is replaced."""
        self._write_row()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the current row."""
        self._write_row()

    def close(self) -> None:
        """Write the current row."""
        self._write_row()

    @rank_zero_only
    def cut_after(self, step: int) -> None:
        """Keep only the rows of steps up to `step`; 0 removes all rows."""
        self._row = {}
        rows = [row for row in self._read() if step > 0 and int(row["step"]) <= step]
        if self.path.exists():
            self._rewrite(rows)

    def _write_row(self) -> None:
        row, self._row = self._row, {}
        if not row:
            return
        known = self._header_written and not set(row) - set(self._columns)
        if known and row["step"] != self._last_step:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                self._writer(file).writerow(row)
            self._last_step = row["step"]
            return
        rows = self._read()
        if rows and rows[-1]["step"] == str(row["step"]):
            row = {key: value for key, value in rows.pop().items() if value != ""} | row
        self._rewrite([*rows, row])

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            added = [name for name in reader.fieldnames or () if name not in self._columns]
            self._columns += added
            # A process that is killed while it writes can leave an incomplete row.
            return [row for row in reader if (row["step"] or "").isdigit() and None not in row]

    def _rewrite(self, rows: list[dict[str, Any]]) -> None:
        """Replace the file atomically."""
        self._columns += [name for row in rows for name in row if name not in self._columns]
        self._columns = list(dict.fromkeys(self._columns))
        text = io.StringIO(newline="")
        writer = self._writer(text)
        writer.writeheader()
        writer.writerows(rows)
        write_text_atomically(self.path, text.getvalue())
        self._header_written = True
        self._last_step = int(rows[-1]["step"]) if rows else None

    def _writer(self, file: Any) -> csv.DictWriter:
        return csv.DictWriter(file, self._columns, restval="", lineterminator="\n")
