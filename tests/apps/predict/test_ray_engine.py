"""``--engine ray`` writes the files of a single process, also when a node of the cluster dies."""

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from fsspec.implementations.local import LocalFileSystem
from PIL import Image

from scenewise import Predictor, load_model, predict_dataset
from scenewise.apps.cli import main
from scenewise.apps.predict import ray_engine
from scenewise.apps.predict.ray_actor import Actor
from scenewise.data import FolderDataset
from scenewise.data.shards import write_shards
from scenewise.errors import UserError
from tests.data.trees import write_tree

COUNT = 40
needs_ray = pytest.mark.skipif(not find_spec("ray"), reason="Ray is not installed")
# Ray Data warns of settings that it sets itself
of_ray = pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning")
Run = Callable[..., str]


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def write_images(folder: Path, count: int, side: int) -> Path:
    folder.mkdir()
    for number in range(count):
        size = (side, side + number % 3, 3)
        array = np.random.default_rng(number).integers(0, 256, size, np.uint8)
        Image.fromarray(array).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def predict(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command and return its messages."""

    def run(source: object, out: object, *options: str, code: int = 0) -> str:
        words = ["predict", str(source), "--model", str(model_folder), "--out", str(out)]
        assert main([*words, *options]) == code
        return " ".join(capsys.readouterr().err.split())

    return run


# Two nodes on one machine


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes of one CPU, on loopback addresses."""
    settings = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # the driver connects to 127.0.0.1 too
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    import ray
    from ray.cluster_utils import Cluster

    node = {
        "num_cpus": 1,
        "object_store_memory": 80 * 2**20,
        "node_ip_address": "127.0.0.1",
        "include_dashboard": False,
    }
    checks = {"health_check_period_ms": 500, "health_check_failure_threshold": 4}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "_system_config": checks})
    cluster.add_node(**node)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="error")
    yield cluster
    ray.shutdown()
    cluster.shutdown()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value


@needs_ray
@of_ray
def test_predict_dataset_adds_the_labels(cluster: Any, model_folder: Path, tmp_path: Path) -> None:
    import ray.data

    images = write_images(tmp_path / "images", 5, 37)
    model = load_model(model_folder)
    files = ray.data.read_binary_files(str(images), include_paths=True)
    labelled = predict_dataset(files, Predictor(model, flip=True), column="bytes", actors=1)
    rows = labelled.take_all()
    assert sorted(Path(row["path"]).name for row in rows) == [f"{n}.png" for n in range(5)]
    for row in rows:
        expected = Predictor(model, flip=True)(row["path"])
        assert np.array_equal(row["labels"], expected.labels.numpy())
        assert row["labels"].dtype == np.uint8
        assert row["lowest_confidence"] == pytest.approx(float(expected.confidence.min()))
        assert row["mean_confidence"] == pytest.approx(float(expected.confidence.mean()))


@needs_ray
@of_ray
def test_what_cannot_be_written_stops_the_command(
    cluster: Any, predict: Run, tmp_path: Path
) -> None:
    images, out = write_images(tmp_path / "images", 3, 23), tmp_path / "out"
    out.mkdir()
    (out / "labels").write_text("a file where the folder should be")
    message = predict(images, out, "--engine", "ray", "--actors", "1", "--no-overlay", code=2)
    assert message.endswith("choose a writable folder with enough free space")
    assert "labels" in message.rpartition("cannot write")[2]
    assert sorted(contents(out)) == ["classes.json", "labels"]
    message = predict(images, out, "--engine", "ray", "--actors", "3", code=2)
    assert "3 actors of 1 CPU and 0 GPUs each do not fit into the Ray cluster of" in message
    message = predict(images, out, "--engine", "ray", "--gpus-per-actor", "1", code=2)
    assert "an actor of 1 CPU and 1 GPUs each do not fit" in message


@needs_ray
@of_ray
def test_a_node_dies_and_every_image_is_labelled_once(
    cluster: Any, predict: Run, tmp_path: Path
) -> None:
    import ray

    images, out = write_images(tmp_path / "images", COUNT, 160), tmp_path / "out"
    (images / "00.png").write_text("broken")
    known: list[float] = []

    def kill() -> None:
        until = time.monotonic() + 120
        while len(list(out.glob("labels/*.png"))) < 4 and time.monotonic() < until:
            time.sleep(0.02)
        known.extend((len(list(out.glob("labels/*.png"))), ray.available_resources().get("CPU", 0)))
        cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    options = ("--scales", "0.75", "1", "1.25")
    message = predict(images, out, "--engine", "ray", *options, code=2)
    killer.join()
    assert 4 <= known[0] < COUNT
    assert known[1] == 0  # both CPUs were taken: the node that died was labelling
    assert len(ray.nodes()) == 2
    assert sum(node["Alive"] for node in ray.nodes()) == 1
    assert f"of {COUNT + 1} images labelled" in message
    assert "00.png" in message
    predict(images, tmp_path / "one", "--device", "cpu", *options, code=2)
    written = contents(out)
    for name in [name for name in written if Path(name).name.startswith(".")]:
        del written[name]  # what the killed process was writing
    assert len(written) == 2 * COUNT + 2
    assert written == contents(tmp_path / "one")


# The actor alone, in this process


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """One actor in this process, without a cluster."""

    def rows(ray: None, jobs: Any, actors: int, arguments: tuple[Any, ...]) -> Iterator[Any]:
        import json

        batch = Actor(*arguments)({"job": [json.dumps(vars(job)) for job in jobs]})
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))

    @contextmanager
    def connected() -> Iterator[Any]:
        yield type("Ray", (), {"put": staticmethod(lambda model: None)})

    monkeypatch.setattr(ray_engine, "_rows", rows)
    monkeypatch.setattr(ray_engine, "connected", connected)
    monkeypatch.setattr(ray_engine, "actor_count", lambda actors, gpus: 1)


@pytest.mark.usefixtures("in_process")
def test_a_store_holds_the_same_labels_and_is_resumed(predict: Run, tmp_path: Path) -> None:
    images, out = write_images(tmp_path / "images", 3, 23), tmp_path / "out"
    source, target = images.as_uri(), out.as_uri()
    scores = ("--probabilities", "png", "--probability-classes", "sky", "--maps", "entropy")
    assert "3 of 3 images labelled" in predict(source, target, "--engine", "ray", *scores)
    predict(images, tmp_path / "one", "--device", "cpu", *scores)
    assert sorted(contents(out)) == sorted(contents(tmp_path / "one"))
    for name in ("overlays/0.jpg", "overlays/2.jpg", "probabilities/1_sky/0.png", "entropy/1.png"):
        assert (out / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    for name in ("0.png", "1.png"):
        pair = (Image.open(folder / "labels" / name) for folder in (out, tmp_path / "one"))
        first, second = (np.asarray(image) for image in pair)
        assert np.array_equal(first, second)
    (out / "labels" / "1.png").unlink()
    (out / "entropy" / "2.png").unlink()
    before = contents(out)
    message = predict(source, target, "--engine", "ray", *scores)
    assert "2 of 3 images labelled" in message
    assert "1 skipped that were finished before" in message
    assert before.items() <= contents(out).items()
    assert len((out / "ranking.csv").read_text().splitlines()) == 4
    assert "3 of 3 images labelled" in predict(source, target, "--engine", "ray", "--again")


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    ("operation", "error"),
    [
        ("put_file", OSError(errno.ENOSPC, "No space left on device")),
        ("ls", PermissionError("Unable to locate credentials")),
    ],
)
def test_a_store_that_refuses_stops_the_command(
    predict: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    operation: str,
    error: OSError,
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    images, out = write_images(tmp_path / "images", 2, 23), tmp_path / "out"
    monkeypatch.setattr(LocalFileSystem, operation, refuse)
    message = predict(images.as_uri(), out.as_uri(), "--engine", "ray", code=2)
    assert str(error) in message
    assert message.endswith("check the address, your credentials for the store and its free space")
    assert not out.exists() or not contents(out)


@pytest.mark.usefixtures("in_process")
def test_rasters_keep_their_coordinates_in_another_engine(predict: Run, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", 1, 23)
    scale = (33550, "d", 3, (1.0, 1.0, 0.0), True)  # a tag of GeoTIFF
    tifffile.imwrite(images / "map.tif", np.zeros((23, 23, 3), np.uint8), extratags=[scale])
    for source in (images, images.as_uri()):
        message = predict(source, tmp_path / "out", "--engine", "ray", code=2)
        assert "map.tif' is a raster; label it without --engine ray" in message
        assert [file.name for file in (tmp_path / "out" / "labels").iterdir()] == ["0.png"]
    message = predict(images, tmp_path / "out", "--engine", "ray", "--raster", "no")
    assert "2 of 2 images labelled" in message or "1 of 2 images labelled" in message


@pytest.mark.usefixtures("in_process")
def test_shards_are_labelled_under_the_names_of_their_images(predict: Run, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", train=5, val=2)
    shards = write_shards(partial(FolderDataset, tree), tmp_path / "shards", per_shard=3, workers=1)
    out = tmp_path / "out"
    message = predict(shards, out, "--engine", "ray", "--no-overlay")
    assert "7 of 7 images labelled" in message
    for split in ("train", "val"):
        predict(tree / "images" / split, tmp_path / split, "--no-overlay", "--device", "cpu")
        for file in (tmp_path / split / "labels").iterdir():
            with Image.open(file) as one, Image.open(out / "labels" / split / file.name) as other:
                assert np.array_equal(np.asarray(one), np.asarray(other))
    (out / "labels" / "train" / "p1.png").unlink()
    message = predict(shards.as_uri(), out, "--engine", "ray", "--no-overlay")
    assert "of 7 images labelled" in message
    damaged = next(shards.glob("train*.tar"))
    damaged.write_bytes(damaged.read_bytes()[:3000])
    message = predict(shards, out, "--engine", "ray", "--no-overlay", code=2)
    assert "is damaged" in message
    assert damaged.name in message


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("images", ("--engine", "ray", "--format", "coco"), "--format is not for --engine ray"),
        ("images", ("--engine", "ray", "--shares"), "--shares is not for --engine ray"),
        ("images", ("--engine", "ray", "--contact-sheet", "3"), "--contact-sheet is not for"),
        ("images", ("--engine", "ray", "--batch-size", "2"), "--batch-size is not for --engine"),
        ("images", ("--engine", "ray", "--vectors", "gpkg"), "--vectors is not for --engine ray"),
        ("images", ("--engine", "ray", "--raster", "yes"), "--raster yes is not for --engine ray"),
        ("images", ("--engine", "ray", "--device", "cuda"), "contradicts --gpus-per-actor 0"),
        ("images", ("--actors", "2"), "are for --engine ray"),
        ("file:///nothing", (), "give --engine ray, or a local folder"),
        ("file:///nothing", ("--engine", "ray"), "'file:///nothing' not found"),
        ("memory://images", ("--engine", "ray"), "exists in one process only"),
        ("nothing://images", ("--engine", "ray"), "cannot open 'nothing://images'"),
        ("images.mp4", ("--engine", "ray"), "--engine ray labels images; leave out video"),
    ],
)
def test_bad_input_is_one_sentence(
    predict: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    options: tuple[str, ...],
    message: str,
) -> None:
    write_images(tmp_path / "images", 1, 23)
    (tmp_path / "images.mp4").touch()
    monkeypatch.chdir(tmp_path)
    assert message in predict(source, "out", *options, code=2)
    assert not Path("out").exists()


def test_ray_and_torchrun_exclude_each_other(
    predict: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "torchrun and --engine ray" in predict(tmp_path, "out", "--engine", "ray", code=2)


@needs_ray
def test_a_cluster_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from scenewise.inference.ray_data import connect

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"no Ray cluster answers at RAY_ADDRESS '127.0.0.1:1'"):
        connect()
