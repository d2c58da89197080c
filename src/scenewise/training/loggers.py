"""The numbered folder of a run, and its logs: ``metrics.csv``, TensorBoard, the user's loggers."""

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from scenewise.files import atomic_write
from scenewise.training.checkpoint import ResumePoint


def run_path(root: Path, name: str, resume: ResumePoint | None) -> Path:
    """The folder of a run: that of the checkpoint which is resumed, else the next free number.

    A checkpoint that is not of a run called ``name`` in ``root`` starts a new number too.

    >>> run_path(Path("no folder"), "danet", None).as_posix()
    'no folder/danet/version_0'
    """
    runs = root / name
    version = None if resume is None else _version_of(resume.path, runs)
    return runs / f"version_{_free_version(runs) if version is None else version}"


def loggers_of(given: Any, folder: Path, resume: ResumePoint | None) -> list[Logger]:
    """The loggers of a run.

    Args:
        given: None or True for ``metrics.csv`` and TensorBoard; False for none; a logger or several
            in place of TensorBoard's.
        folder: of the run.
        resume: where the run is resumed; the logs of its folder are continued.
    """
    if given is False:
        return []
    same_run = resume is not None and _in(resume.path, folder)
    rows = RunLog(folder, resume if same_run else None)
    if given is None or given is True:
        place = (folder.parent.parent, folder.parent.name, folder.name)
        purge = resume.steps if resume is not None and same_run else None
        return [rows, TensorBoardLogger(*place, default_hp_metric=False, purge_step=purge)]
    own = list(given) if isinstance(given, Iterable) else [given]
    return [rows, *(logger for logger in own if not _writes_csv_to(folder, logger))]


class RunLog(CSVLogger):
    """``metrics.csv`` of a run folder. What an earlier process wrote is kept until ``begin``.

    Args:
        folder: of the run.
        resume: the checkpoint of this folder that is resumed, if any.
    """

    def __init__(self, folder: Path, resume: ResumePoint | None = None) -> None:
        super().__init__(  # a killed run keeps its rows
            folder.parent.parent, folder.parent.name, folder.name, flush_logs_every_n_steps=1
        )
        self.resume = resume

    @property
    @rank_zero_experiment
    def experiment(self) -> ExperimentWriter:
        """Lightning's writer, without its removal of an existing file."""
        if self._experiment is None:
            self._experiment = _Writer(self.log_dir)
        return self._experiment  # type: ignore[return-value]

    def rows(self) -> list[dict[str, Any]]:
        """The rows so far, each without its empty cells."""
        path = Path(self.log_dir) / "metrics.csv"
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.DictReader(file)
            return [{name: value for name, value in row.items() if value} for row in lines]

    @rank_zero_only
    def begin(self) -> None:
        """Remove the rows after the checkpoint that is resumed; its training repeats them.

        The row of the checkpoint's last step may come after it.
        """
        if self.resume is None:
            return
        rows, count = self.rows(), self.resume.log_rows
        for row in rows[count : count + 1]:
            count += "train/loss" in row and int(row["step"]) == self.resume.steps - 1
        columns = sorted({name for row in rows[:count] for name in row})
        path = Path(self.log_dir) / "metrics.csv"
        if not columns:
            path.unlink(missing_ok=True)
            return
        with atomic_write(path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows[:count])
        self.experiment.metrics_keys = columns


class _Writer(ExperimentWriter):
    def _check_log_dir_exists(self) -> None:
        """Keep what the folder holds."""


def _writes_csv_to(folder: Path, logger: Any) -> bool:
    return isinstance(logger, CSVLogger) and Path(logger.log_dir).absolute() == folder.absolute()


def _in(checkpoint: Path, folder: Path) -> bool:
    return checkpoint.absolute().parent.parent.resolve() == folder.resolve()


def _version_of(checkpoint: Path, runs: Path) -> int | None:
    """The number of the run in ``runs`` that wrote ``checkpoint``; None if none of them did.

    >>> _version_of(Path("runs/danet/version_3/checkpoints/last.ckpt"), Path("runs/danet"))
    3
    >>> _version_of(Path("elsewhere/last.ckpt"), Path("runs/danet")) is None
    True
    """
    folder = checkpoint.absolute().parent.parent  # version_N/checkpoints/last.ckpt
    number = folder.name.removeprefix("version_")
    inside = folder.parent.resolve() == runs.resolve() and number.isdigit()
    return int(number) if inside else None


def _free_version(folder: Path) -> int:
    """The number of the next run in ``folder``, after version_0, version_1, ...

    >>> _free_version(Path("not a folder"))
    0
    """
    taken = [path.name.removeprefix("version_") for path in folder.glob("version_*")]
    return 1 + max((int(number) for number in taken if number.isdigit()), default=-1)
