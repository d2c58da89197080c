"""Batch inference on Ray Data: actors hold the network, on one machine or on a cluster."""

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np

from scenewise.errors import UserError, import_extra
from scenewise.inference.devices import best_device
from scenewise.inference.predictor import Predictor
from scenewise.models.segmenter import Segmenter

if TYPE_CHECKING:
    from ray.data import Dataset

_SECONDS = 5  # to wait for the first answer of a cluster


def predict_dataset(
    dataset: "Dataset",
    model: Segmenter | Predictor,
    *,
    column: str = "image",
    actors: int | None = None,
    gpus_per_actor: float = 0.0,
    batch_size: int = 8,
) -> "Dataset":
    """The Ray dataset with the labels of its images; computed when it is consumed.

    Rows keep their other columns; Ray does not keep their order. Images are decoded and labelled in
    actors, as many at a time as the object store has room for. What runs on a node that dies is
    repeated on another one.

    Args:
        dataset: for example of ``ray.data.read_images`` or ``ray.data.read_binary_files``, which
            read from any store.
        model: what labels an image. Of a Segmenter, each actor prepares a fast copy.
        column: of the images: the bytes of a file, or arrays (H, W, 3), uint8 or floats in 0..1.
        actors: processes with a copy of the network, each with one CPU and thread; default as many
            as the cluster has room for, less one on CPUs. Leave a CPU for what reads the dataset.
        gpus_per_actor: 0 predicts on the CPU; 0.5 lets two actors share a GPU.
        batch_size: rows that an actor takes at a time; they are labelled one by one.

    Returns:
        The dataset with ``labels``, (H, W) uint8 class ids, and ``mean_confidence`` and
        ``lowest_confidence`` of the image, 0..1. A row whose image is invalid fails the dataset;
        ``ray.data.DataContext.get_current().max_errored_blocks`` allows some.

    Raises:
        UserError: Ray is not installed, no cluster answers, or the actors do not fit into it.
    """
    if not isinstance(model, Segmenter | Predictor):
        raise UserError(
            f"predict_dataset takes a Segmenter or a Predictor, not {type(model).__name__}; "
            "load_model returns one"
        )
    ray = connect()
    if actors is None and not gpus_per_actor:
        actors = max(1, actor_count(None) - 1)
    arguments = (ray.put(model), column, gpus_per_actor)
    return map_in_actors(dataset, _Labeller, arguments, actors, gpus_per_actor, batch_size)


class _Labeller:
    """An actor of :func:`predict_dataset`."""

    def __init__(self, model: Any, column: str, gpus: float) -> None:
        import ray

        self.column = column
        loaded: Segmenter | Predictor = ray.get(model)
        device = best_device(None if gpus else "cpu")
        if isinstance(loaded, Predictor):
            self.predictor = copy(loaded)
            self.predictor.device = device
        else:
            self.predictor = Predictor(loaded, device=device)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self.column not in batch:
            raise UserError(f"column '{self.column}' not found; give one of {', '.join(batch)}")
        images = batch[self.column]
        labels = np.empty(len(images), object)  # arrays of different sizes
        means, lowest = [], []
        for index, image in enumerate(images):
            ids, confidence = self.predictor(image)  # (H, W) each
            labels[index] = ids.byte().numpy()
            means.append(float(confidence.double().mean()))
            lowest.append(float(confidence.min()))
        return {**batch, "labels": labels, "mean_confidence": means, "lowest_confidence": lowest}


def connect() -> Any:
    """The module ``ray``, connected to the cluster at RAY_ADDRESS, or to a new one of this machine.

    A cluster that is started here has addresses of this machine alone, no dashboard, and sends no
    usage statistics.

    Raises:
        UserError: Ray is not installed, or no cluster answers.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        # Ray's switch between loopback and the network's address; it is read on import
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    ray = import_extra("ray", "ray")
    import_extra("ray.data", "ray")
    if ray.is_initialized():
        return ray
    quiet = {"log_to_driver": False, "logging_level": "warning"}
    try:
        if address:
            _knock(address)
            ray.init(address=address, **quiet)
        else:
            ray.init("local", include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
    except (OSError, RuntimeError, ValueError) as error:  # ConnectionError is an OSError
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        where = f"at RAY_ADDRESS '{address}'" if address else "on this machine"
        raise UserError(
            f"no Ray cluster answers {where} ({reason}); start one with 'ray start --head', or "
            "unset RAY_ADDRESS to use this machine alone"
        ) from error
    return ray


@contextmanager
def connected() -> Iterator[Any]:
    """As :func:`connect`; a connection that it made is closed at the end."""
    running = "ray" in sys.modules and import_extra("ray", "ray").is_initialized()
    ray = connect()  # which imports Ray after it has set its environment
    try:
        yield ray
    finally:
        if not running:
            ray.shutdown()


def _knock(address: str) -> None:
    """Fail at once where nothing listens; Ray itself tries for minutes."""
    host, colon, port = address.rpartition("://")[2].partition("/")[0].rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS).close()


def map_in_actors(
    dataset: "Dataset",
    worker: type[Any],
    arguments: tuple[Any, ...],
    actors: int | None,
    gpus_per_actor: float,
    batch_size: int | None = None,
) -> "Dataset":
    """Map a dataset with a class that is constructed once an actor.

    Args:
        dataset: its blocks are shared out.
        worker: a class whose ``__call__`` takes and returns a batch, a dictionary of columns.
        arguments: of its constructor.
        actors: see :func:`predict_dataset`.
        gpus_per_actor: see :func:`predict_dataset`.
        batch_size: rows of a batch; None for a whole block.

    Raises:
        UserError: the actors do not fit into the cluster.
    """
    import ray.data

    return dataset.map_batches(
        worker,
        fn_constructor_args=arguments,
        batch_size=batch_size,
        compute=ray.data.ActorPoolStrategy(size=actor_count(actors, gpus_per_actor)),
        num_cpus=1,
        num_gpus=gpus_per_actor,
    )


def actor_count(actors: int | None, gpus_per_actor: float = 0.0) -> int:
    """The number of actors, by default as many as the nodes of the cluster have room for.

    Raises:
        UserError: they do not fit, so that Ray would wait for more nodes; or an invalid number.
    """
    if gpus_per_actor < 0 or (gpus_per_actor > 1 and gpus_per_actor % 1):
        raise UserError(
            f"GPUs per actor are a share up to 1 or a whole number, not {gpus_per_actor:g}"
        )
    if actors is not None and actors < 1:
        raise UserError(f"the number of actors must be at least 1, not {actors}")
    ray = import_extra("ray", "ray")
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(_room(node.get("CPU", 0), node.get("GPU", 0), gpus_per_actor) for node in nodes)
    if room < (actors or 1):
        cpus, gpus = (sum(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
        number = "an actor" if actors in (None, 1) else f"{actors} actors"
        raise UserError(
            f"{number} of 1 CPU and {gpus_per_actor:g} GPUs each do not fit into the Ray cluster "
            f"of {cpus:g} CPUs and {gpus:g} GPUs; ask for fewer actors or GPUs, or add nodes first"
        )
    return actors or room


def _room(cpus: float, gpus: float, gpus_per_actor: float) -> int:
    """The actors that fit on a node; no actor takes parts of several GPUs.

    >>> _room(8, 0, 0), _room(8, 2, 0.6), _room(8, 2, 0.5), _room(3, 4, 0.5), _room(8, 5, 2)
    (8, 2, 4, 3, 2)
    """
    if not gpus_per_actor:
        return int(cpus)
    if gpus_per_actor < 1:
        return min(int(cpus), int(gpus) * int(1 / gpus_per_actor + 1e-9))
    return min(int(cpus), int(gpus // gpus_per_actor))
