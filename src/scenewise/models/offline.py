"""One short question to the hub before timm asks it for weights."""

import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants


@contextmanager
def offline_unless_the_hub_answers() -> Iterator[None]:
    """huggingface_hub's offline mode while the hub cannot be reached.

    Without it each file of a model is requested again for a minute. Weights in its cache are found
    in either mode.

    >>> with offline_unless_the_hub_answers():
    ...     pass
    """
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _hub_answers()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _hub_answers(timeout: float = 3.0) -> bool:
    """Whether the hub that serves ImageNet weights can be reached; one short request."""
    url = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=timeout):
            return True
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
