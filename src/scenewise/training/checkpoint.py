"""Go on in the folder of a run that was stopped."""

import csv
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from scenewise.errors import UserError
from scenewise.models.safe_load import read_file


def check_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint that ``fit`` wrote, else a UserError; nothing is executed."""
    found = read_file(path)
    if "scenewise" not in found:
        raise UserError(f"'{path}' is no checkpoint of Scenewise; give one that fit wrote")
    return found


def run_of(checkpoint: Path, runs: Path) -> int | None:
    """The number of the run in ``runs`` that wrote ``checkpoint``; None if none of them did.

    >>> run_of(Path("runs/danet/version_3/checkpoints/last.ckpt"), Path("runs/danet"))
    3
    >>> run_of(Path("elsewhere/last.ckpt"), Path("runs/danet")) is None
    True
    """
    folder = checkpoint.absolute().parent.parent
    number = folder.name.removeprefix("version_")
    inside = folder.parent.resolve() == runs.resolve() and number.isdigit()
    return int(number) if inside else None


def continue_log(logger: CSVLogger, count: int, steps: int) -> None:
    """Keep what a checkpoint has behind it of a log that Lightning would begin anew.

    Args:
        logger: of the folder of the run.
        count: rows when the checkpoint was written. The row of its last step may come after it.
        steps: optimiser steps of the checkpoint.
    """
    rows = read_log(logger)
    for row in rows[count : count + 1]:
        count += "train/loss" in row and int(row["step"]) == steps - 1
    rows = rows[:count]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Experiment logs directory")
        writer = logger.experiment  # removes the file
    if isinstance(writer, ExperimentWriter):  # in the first process
        writer.metrics.extend(rows)
        logger.save()


def read_log(logger: CSVLogger) -> list[dict[str, Any]]:
    """The rows of ``metrics.csv`` so far, each with the values that it has."""
    path = Path(logger.log_dir) / "metrics.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {name: value for name, value in row.items() if value} for row in csv.DictReader(file)
        ]


def is_whole(path: str | os.PathLike[str]) -> bool:
    """Whether every entry of a checkpoint is there and has the checksum that was written with it.

    >>> is_whole("no such file")
    False
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def newest_whole(folder: str | os.PathLike[str]) -> Path | None:
    """The checkpoint under ``folder`` that was written last and is whole; None if there is none.

    >>> newest_whole("no such folder") is None
    True
    """
    written = sorted(
        Path(folder).glob("**/[!.]*.ckpt"), key=lambda path: path.stat().st_mtime_ns, reverse=True
    )
    return next((path for path in written if is_whole(path)), None)
