"""Checkpoints: written whole, read safely, and what an exact resume needs beside weights."""

import csv
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.plugins.io import TorchCheckpointIO

from scenewise.errors import UserError
from scenewise.files import atomic_write
from scenewise.models.safe_load import read_file
from scenewise.training.distributed.fsdp import divided_as, whole


class WholeCheckpoints(TorchCheckpointIO):
    """Write to a temporary file, flush it to the disk, then rename it.

    A process that is killed while it writes leaves the older checkpoint of that name untouched.

    Raises:
        UserError: the disk is full, or the folder cannot be written to.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write ``checkpoint`` to ``path``."""
        try:
            with atomic_write(path) as temporary:
                torch.save(checkpoint, temporary)
        except RuntimeError as error:
            if "inline_container" not in str(error):  # how PyTorch's writer tells of a full disk
                raise
            raise UserError(
                f"cannot write '{path}': the disk is full or refuses; make room and go on with "
                "--ckpt_path last"
            ) from error


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


def to_resume(module: LightningModule, *, gradients: bool) -> dict[str, Any]:
    """Random states of PyTorch, and with ``gradients`` those that are summed but not applied yet.

    >>> sorted(to_resume(LightningModule(), gradients=True))
    ['cpu', 'gradients']
    """
    found: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if module.device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(module.device)
    if gradients:
        found["gradients"] = {
            name: whole(parameter.grad)
            for name, parameter in module.named_parameters()
            if parameter.grad is not None
        }
    return found


def resume(module: LightningModule, found: dict[str, Any]) -> None:
    """Put back what :func:`to_resume` found; nothing of an empty dictionary."""
    if "cpu" in found:
        torch.set_rng_state(found["cpu"].cpu())
    if "cuda" in found and module.device.type == "cuda":
        torch.cuda.set_rng_state(found["cuda"].cpu(), module.device)
    summed = found.get("gradients", {})
    for name, parameter in module.named_parameters():
        if name in summed:
            parameter.grad = divided_as(parameter, summed[name].to(parameter.device))
