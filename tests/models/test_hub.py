"""Models on the hub: the real client against a server on loopback that speaks the hub's routes."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, constants, parse_eval_result_entries

from scenewise import Segmenter, create_model, load_model
from scenewise.classes import Classes
from scenewise.errors import UserError
from scenewise.models.fingerprint import model_fingerprint
from scenewise.models.hub import CARD, GENERATED, upload
from tests.models.hub_server import Hub, Repository, serving, use

# huggingface_hub sends the bytes of an upload as its HTTP client deprecates
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

METRICS: dict[str, Any] = {
    "val": {"epoch": 3, "step": 40, "miou": 0.5125, "mean_dice": None, "iou/a|b": 0.25,
            "iou/sky": 0.775},
    "about": {"protocol": "danet_ms",
              "data": {"format": "folder", "split": "val", "images": 12, "sha256": "ab12"}},
}  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(monkeypatch, str(tmp_path / "cache")) as served:
        yield served


@pytest.fixture(scope="module")
def model() -> Segmenter:
    torch.manual_seed(2)
    classes = Classes(("a|b", "sky"), ((1, 2, 3), (4, 5, 6)))
    return create_model("danet", classes=classes, backbone="tiny", auxiliary=True).eval()


def push(model: Segmenter, name: str = "me/street", **options: Any) -> Any:
    return model.push_to_hub(name, **{"licence": "cc-by-4.0", **options})


def scored(model: Segmenter) -> dict[str, Any]:
    return {**METRICS, "about": {**METRICS["about"], "model_sha256": model_fingerprint(model)}}


def same(first: Segmenter, second: Segmenter) -> None:
    assert first.config() == second.config()
    states = first.state_dict(), second.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_what_is_uploaded_is_fetched_again(hub: Hub, model: Segmenter) -> None:
    assert push(model) == f"{hub.url}/me/street"
    repository = hub.repositories["me/street"]
    assert set(repository.commits[repository.head]) == {"config.json", "model.safetensors", CARD}
    assert len(repository.commits) == 1
    hub.requests.clear()
    same(Segmenter.from_pretrained("hf-hub:me/street"), model)
    asked = [request for request in hub.requests if "/api/" in request]
    assert asked == ["GET /api/models/me/street"]
    fetched = {request.rpartition("/")[2] for request in hub.requests} - {"street"}
    assert fetched == {"config.json", "model.safetensors"}  # no other file, such as the card
    hub.requests.clear()
    same(load_model(f"hf-hub:me/street@{repository.head}"), model)
    assert hub.requests == []  # a commit that is in the cache does not change


def test_a_revision_is_that_one_and_the_newest_commit_counts(hub: Hub, model: Segmenter) -> None:
    push(model)
    first = hub.repositories["me/street"].head
    newer = model.with_classes(Classes.numbered(3))
    push(newer)
    same(load_model("hf-hub:me/street"), newer)
    same(load_model(f"hf-hub:me/street@{first}"), model)
    same(load_model("hf-hub:me/street@main"), newer)


def test_offline_mode_and_a_silent_hub_use_the_cache(
    hub: Hub, model: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(model)
    load_model("hf-hub:me/street")
    hub.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    same(load_model("hf-hub:me/street"), model)
    assert hub.requests == []
    with pytest.raises(UserError, match=r"'hf-hub:me/other' is not in the cache, and offline mode"):
        load_model("hf-hub:me/other")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # does not listen: connections are refused
        use(monkeypatch, f"http://127.0.0.1:{unused.getsockname()[1]}", constants.HF_HUB_CACHE)
        same(load_model("hf-hub:me/street"), model)
        start = time.perf_counter()
        with pytest.raises(UserError, match=r"not in the cache, and the hub does not answer \("):
            load_model("hf-hub:me/other")
        with pytest.raises(UserError, match=r"cannot upload to 'me/street' \(.*log in with hf"):
            push(model)
        assert time.perf_counter() - start < 5  # no retries


def test_what_is_wrong_on_the_hub_is_one_sentence(
    hub: Hub, model: Segmenter, tmp_path: Path
) -> None:
    push(model)
    config, weights = (
        hub.repositories["me/street"].commits[hub.repositories["me/street"].head][name]
        for name in ("config.json", "model.safetensors")
    )
    for name, files in {
        "me/empty": {"README.md": b"a"},
        "me/weights": {"model.safetensors": weights},
        "me/library": {"config.json": b'{"architectures": []}', "model.safetensors": weights},
        "me/bert": {"config.json": b'{"model_type": "bert"}', "model.safetensors": weights},
        "me/no_json": {"config.json": b"{", "model.safetensors": weights},
        "me/cut": {"config.json": config, "model.safetensors": weights[:900]},
        "me/pickle": {"config.json": config, "pytorch_model.bin": weights},
        "me/gated": {"config.json": config, "model.safetensors": weights},
        "me/private": {"config.json": config, "model.safetensors": weights},
    }.items():
        hub.repositories[name] = Repository()
        hub.repositories[name].commit(files)
    hub.repositories["me/gated"].gated = True
    hub.repositories["me/private"].private = True
    hub.requests.clear()
    for source, message in {
        "hf-hub:me/nothing": "'hf-hub:me/nothing' is not on the hub, or private; check the name",
        "hf-hub:me/private": "is not on the hub, or private; check the name, or log in with hf",
        "hf-hub:me/street@v9": "has no revision 'v9'; give a branch, a tag or a commit",
        "hf-hub:me/empty": "has no config.json; give a model of Scenewise",
        "hf-hub:me/weights": "has no config.json; give a model of Scenewise",
        "hf-hub:me/pickle": "has no model.safetensors; give a model of Scenewise",
        "hf-hub:me/library": "is a model of another library; give one that Scenewise uploaded",
        "hf-hub:me/bert": "'hf-hub:me/bert' is a Hugging Face model (bert), which cannot be conv",
        "hf-hub:me/no_json": "is not valid JSON",
        "hf-hub:me/cut": "is damaged or not a weights file; fetch it again",
        "hf-hub:me/gated": f"accept its conditions on {hub.url}/me/gated and log in",
        "hf-hub:street": "'hf-hub:street' is not a name on the hub; give hf-hub:owner/name",
        "hf-hub:me/../x": "is not a name on the hub; give hf-hub:owner/name[@revision]",
        "hf-hub:me/street@": "is not a name on the hub",
    }.items():
        with pytest.raises(UserError) as refused:
            load_model(source)
        assert message in str(refused.value), source
    assert not any(file.endswith("pytorch_model.bin") for file in hub.requests)
    weights_of_another = "GET /me/library/resolve/"
    assert not any(r.startswith(weights_of_another) and "safetensors" in r for r in hub.requests)


def test_the_card_has_what_the_hub_reads(hub: Hub, model: Segmenter) -> None:
    model.source = {"base_model": "you/base"}
    try:
        push(model, dataset="you/roads", metrics=scored(model))
    finally:
        model.source = None
    files = hub.repositories["me/street"].commits[hub.repositories["me/street"].head]
    text = files[CARD].decode()
    card = ModelCard(text).data
    assert (card.license, card.library_name) == ("cc-by-4.0", "scenewise")
    assert (card.pipeline_tag, card.base_model) == ("image-segmentation", "you/base")
    assert (card.datasets, card.tags) == (["you/roads"], ["semantic-segmentation", "danet", "tiny"])
    (result,) = card.eval_results
    assert (result.dataset_type, result.dataset_split) == ("you/roads", "val")
    assert (result.metric_type, result.metric_value) == ("mean_iou", 51.25)
    assert result.metric_args == {"protocol": "danet_ms"}
    assert "On 12 images of the split `val`" in text
    assert "| a\\|b | 25.0 |\n| sky | 77.5 |" in text
    assert "mean dice" not in text
    assert 'load_model("hf-hub:me/street")' in text
    entries = yaml.safe_load(files[".eval_results/roads.yaml"])
    (entry,) = parse_eval_result_entries(entries)
    assert (entry.dataset_id, entry.value) == ("you/roads", 51.25)
    assert entry.notes == "mIoU in percent, split val, danet_ms"


def test_an_edited_card_is_kept_and_a_generated_one_written_again(
    hub: Hub, model: Segmenter, caplog: pytest.LogCaptureFixture
) -> None:
    push(model)
    push(model, licence="mit")
    repository = hub.repositories["me/street"]
    card = repository.commits[repository.head][CARD].decode()
    assert ModelCard(card).data.license == "mit"
    repository.commit({CARD: card.replace(GENERATED, "Mine.").encode()})
    assert caplog.text == ""
    push(model, licence="other")
    assert "the model card of 'me/street' was edited there and is kept" in caplog.text
    assert "Mine." in repository.commits[repository.head][CARD].decode()
    repository.commit({CARD: b"---\nlicense: mit\n---\n"})  # as the hub starts a repository
    push(model, licence="other")
    assert GENERATED in repository.commits[repository.head][CARD].decode()


def test_wrong_words_of_an_upload_are_one_sentence(hub: Hub, model: Segmenter) -> None:
    other = {**METRICS, "about": {**METRICS["about"], "model_sha256": "of another"}}
    damaged = {"val": {"miou": "high"}, "about": scored(model)["about"]}
    missing = {"val": {"iou/sky": 0.5}, "about": scored(model)["about"]}
    for options, message in (
        ({"licence": "Apache 2.0!"}, "'Apache 2.0!' is not a licence of the hub; give its identi"),
        ({"dataset": "roads"}, "'roads' is not a dataset on the hub; give owner/name"),
        ({"metrics": other}, "the scores are those of other weights; score the model with"),
        ({"metrics": damaged}, "the scores are not those of a metrics.json"),
        ({"metrics": missing}, "the scores are not those of a metrics.json"),
        ({"repo": "street"}, "'street' is not a name on the hub; give owner/name"),
    ):
        with pytest.raises(UserError) as refused:
            model.push_to_hub(**{"repo": "me/street", "licence": "mit", **options})  # type: ignore[arg-type]
        assert message in str(refused.value)
    assert hub.requests == []
    hub.refused = True
    with pytest.raises(UserError, match=r"cannot upload to 'me/street' \(.*log in with hf auth lo"):
        upload("me/street", {"a.txt": b"a"})
    assert hub.repositories == {}
