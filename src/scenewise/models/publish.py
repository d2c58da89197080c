"""Publish a model on the hub: its folder or an export, with a card whose scores are its own."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from scenewise.errors import UserError
from scenewise.models.card import About, card_files
from scenewise.models.fingerprint import model_fingerprint
from scenewise.models.hub import upload
from scenewise.models.segmenter import CONFIG, WEIGHTS, Segmenter


def push_to_hub(model: Segmenter, repo: str, about: About, *, private: bool = False) -> str:
    """Upload a model as :meth:`Segmenter.push_to_hub` does."""
    with TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        files = {name: Path(folder) / name for name in (CONFIG, WEIGHTS)}
        return push_files(model, repo, files, about, private=private)


def push_files(
    model: Segmenter,
    repo: str,
    files: Mapping[str, Path | bytes],
    about: About,
    *,
    private: bool = False,
) -> str:
    """Upload files of a model, its ``config.json`` and a model card, in one commit.

    Args:
        model: for the configuration and the card.
        repo: ``owner/name``; created if it does not exist.
        files: name in the repository -> file or content.
        about: licence, dataset and scores, for the card.
        private: of a repository that is created.

    Returns:
        The address of the repository.

    Raises:
        UserError: scores of another model, not logged in, no connection, or the repository cannot
            be written to.
    """
    if about.metrics is not None:
        scored = dict(about.metrics.get("about") or {}).get("model_sha256")
        if scored != model_fingerprint(model):
            raise UserError(
                "the scores are those of other weights; score the model with scenewise validate or "
                "test, and give that metrics.json"
            )
    config = json.dumps(model.config(), indent=2, ensure_ascii=False) + "\n"
    whole = {CONFIG: config.encode(), **files}
    return upload(
        repo, {**whole, **card_files(repo, model.config(), about, sorted(whole))}, private=private
    )
