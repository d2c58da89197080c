"""The hub is asked once; while it does not answer, its library is offline."""

import urllib.error
import urllib.request

import pytest
import timm
from huggingface_hub import constants

from scenewise import create_model
from scenewise.errors import UserError
from scenewise.models.offline import offline_unless_the_hub_answers


@pytest.mark.parametrize(
    ("error", "answers"),
    [
        (None, True),
        (urllib.error.HTTPError("u", 403, "no", None, None), True),  # type: ignore[arg-type]
        (urllib.error.URLError("no route"), False),
        (TimeoutError("slow"), False),
    ],
)
def test_the_hub_is_asked_once(
    error: Exception | None, answers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Page:
        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    asked: list[str] = []

    def urlopen(request: urllib.request.Request, timeout: float) -> Page:
        asked.append(request.full_url)
        assert (request.method, timeout) == ("HEAD", 3)
        if error is not None:
            raise error
        return Page()

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror")
    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with offline_unless_the_hub_answers():
        assert constants.HF_HUB_OFFLINE is not answers
    assert not constants.HF_HUB_OFFLINE
    assert asked == ["http://mirror"]


def test_a_network_without_connection_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    create, modes = timm.create_model, []

    def seen(name: str, **options: object) -> object:
        if options.get("pretrained"):
            modes.append(constants.HF_HUB_OFFLINE)
            raise OSError("no weights")
        return create(name, **options)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(timm, "create_model", seen)
    with pytest.raises(UserError, match="could not be fetched"):
        create_model("fcn", num_classes=2, backbone="resnet18")
    assert modes == [True]
