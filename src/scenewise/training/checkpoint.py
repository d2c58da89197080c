"""Checkpoints: atomic writes, safe reading, and what an exact resume needs besides weights."""

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from scenewise.errors import UserError
from scenewise.files import atomic_write
from scenewise.models.safe_load import read_file
from scenewise.models.segmenter import Segmenter
from scenewise.training.distributed import full_tensor, shard_like


class ResumePoint(NamedTuple):
    """A checkpoint to resume from, and what is checked before anything is written.

    Attributes:
        path: of the checkpoint.
        steps: of the optimiser so far.
        epoch: that is trained, from 0.
        log_rows: rows of ``metrics.csv`` so far.
        settings: of its training, see ``scenewise.training.resume``.
        config: of its model.
        shapes: of its weights.
    """

    path: Path
    steps: int = 0
    epoch: int = 0
    log_rows: int = 0
    settings: Mapping[str, Any] = MappingProxyType({})
    config: Mapping[str, Any] = MappingProxyType({})
    shapes: Mapping[str, torch.Size] = MappingProxyType({})


def resume_point(source: str | Path, runs: Path) -> ResumePoint | None:
    """The checkpoint to resume from.

    Args:
        source: a checkpoint, a run folder for the newest whole one in it, "last" for the newest
            whole one of the runs in ``runs``, or "best" for the best one of the newest of them.
        runs: folder with version_0, version_1, ...

    Returns:
        None where ``source`` is "last" and there is no checkpoint yet: the run starts.

    Raises:
        UserError: not a checkpoint that ``fit`` wrote; nothing in it is executed.
    """
    named = {"last": _newest_whole_of, "best": _newest_best_of}.get(str(source))
    path = _in_run_folder(Path(source)) if named is None else named(runs)
    if path is None:
        return None
    content = read_file(path)
    if "scenewise" not in content:
        raise UserError(f"'{path}' is not a checkpoint of Scenewise; give one that fit wrote")
    return ResumePoint(
        path,
        content.get("global_step", 0),
        content.get("epoch", 0),
        content.get("log_rows", 0),
        content.get("settings", {}),
        content["scenewise"],
        shapes_of(content.get("state_dict", {})),
    )


def _newest_whole_of(runs: Path) -> Path | None:
    last = newest_whole(runs)
    print(f"resuming from {last}" if last else f"no checkpoint under {runs}: a new run")
    return last


def _in_run_folder(source: Path) -> Path:
    """The newest whole checkpoint of a run folder; a file is returned as it is."""
    if not source.is_dir():
        return source
    last = newest_whole(source)
    if last is None:
        raise UserError(f"no whole checkpoint in '{source}'; give a run folder or a checkpoint")
    print(f"resuming from {last}")
    return last


def _newest_best_of(runs: Path) -> Path:
    found = sorted(runs.glob("version_*/checkpoints/best.ckpt"), key=lambda p: p.stat().st_mtime)
    if not found:
        raise UserError(f"no best checkpoint under '{runs}'; give the path of a checkpoint")
    print(f"the best checkpoint is {found[-1]}")
    return found[-1]


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
            if "inline_container" not in str(error):  # PyTorch's writer reports a full disk so
                raise
            raise UserError(
                f"cannot write '{path}': the disk is full or refuses; make room and resume with "
                "--ckpt_path last"
            ) from error


def _is_whole(path: str | os.PathLike[str]) -> bool:
    """Whether every entry of a checkpoint is present and has the checksum written with it.

    >>> _is_whole("not a file")
    False
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch.save writes zip archives
            return archive.testzip() is None  # torch.save writes a zip file with checksums
    except (OSError, zipfile.BadZipFile):
        return False


def newest_whole(folder: str | os.PathLike[str]) -> Path | None:
    """The checkpoint under ``folder`` that was written last and is whole, or None.

    >>> newest_whole("not a folder") is None
    True
    """
    written = sorted(
        Path(folder).glob("**/[!.]*.ckpt"), key=lambda path: path.stat().st_mtime_ns, reverse=True
    )
    return next((path for path in written if _is_whole(path)), None)


def exact_state(module: LightningModule, *, gradients: bool) -> dict[str, Any]:
    """Random states of PyTorch, and with ``gradients`` those accumulated but not yet applied.

    >>> sorted(exact_state(LightningModule(), gradients=True))
    ['cpu', 'gradients']
    """
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}  # dropout draws from it
    if module.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(module.device)
    if gradients:
        state["gradients"] = {
            name: full_tensor(parameter.grad)
            for name, parameter in module.named_parameters()
            if parameter.grad is not None
        }
    return state


def restore_exact_state(module: LightningModule, state: dict[str, Any]) -> None:
    """Put back what :func:`exact_state` returned; an empty dictionary changes nothing."""
    if "cpu" in state:
        torch.set_rng_state(state["cpu"].cpu())
    if "cuda" in state and module.device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), module.device)
    gradients = state.get("gradients", {})
    for name, parameter in module.named_parameters():
        if name in gradients:
            parameter.grad = shard_like(parameter, gradients[name].to(parameter.device))


def describe(config: Mapping[str, Any]) -> str:
    """A model in a few words, from its ``config.json``.

    >>> from scenewise.models import create_model
    >>> describe(create_model("fcn", num_classes=2, backbone="tiny").config())
    'fcn with backbone tiny and 2 classes'
    """
    recipe = config["model"] or {"name": "a network with custom parts", "backbone": "?"}
    count = len(config["classes"]["names"])
    return f"{recipe['name']} with backbone {recipe['backbone']} and {count} classes"


def shapes_of(weights: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """The name and shape of every weight, by which networks differ.

    >>> shapes_of({"gamma": torch.zeros(1)})
    {'gamma': torch.Size([1])}
    """
    return {name: value.shape for name, value in weights.items()}


def refuse_other_model(
    saved: Mapping[str, Any] | None,
    saved_shapes: Mapping[str, torch.Size],
    model: Segmenter,
    shapes: Mapping[str, torch.Size],
) -> None:
    """Refuse a checkpoint of another network.

    Args:
        saved: configuration of the model in the checkpoint, if it has one.
        saved_shapes: of the weights in the checkpoint.
        model: the network that is to hold them.
        shapes: of its weights, by the names in the checkpoint.

    Raises:
        UserError: weights of other shapes, or of a network with other options.
    """
    current = model.config()
    if saved_shapes != shapes:
        raise UserError(
            f"the checkpoint holds {describe(saved) if saved else 'another model'} but this is "
            f"{describe(current)}; give the --config that it was trained with"
        )
    one, other = (saved or {}).get("model") or {}, current["model"] or {}
    for name in sorted(one.keys() | other.keys() if one and other else ()):
        before, now = (json.dumps(recipe.get(name)) for recipe in (one, other))
        if before != now:  # a list and a tuple are the same
            raise UserError(
                f"the checkpoint holds a network with {name} {before} but this one has {now}; "
                "give the --config that it was trained with"
            )
