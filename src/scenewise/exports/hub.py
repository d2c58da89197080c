"""Upload exports to the Hugging Face hub."""

from pathlib import Path

from scenewise.exports.export import Export
from scenewise.models.card import OVERLAY, About
from scenewise.models.publish import push_files
from scenewise.models.segmenter import Segmenter


def push_to_hub(
    export: Export,
    model: Segmenter,
    repo: str,
    about: About,
    *,
    overlay: bytes | None = None,
    private: bool = False,
) -> str:
    """Upload the files of an export with ``config.json`` and a model card, in one commit.

    Args:
        export: the result of :func:`scenewise.exports.export_model`.
        model: for the configuration and the card.
        repo: ``owner/name``; created if it does not exist.
        about: licence, dataset and scores, for the card.
        overlay: an image with the model's labels, as PNG.
        private: of a repository that is created.

    Returns:
        The address of the repository.

    Raises:
        UserError: as :func:`scenewise.models.publish.push_files`.
    """
    files: dict[str, Path | bytes] = {file.name: file for file in export.files}
    if overlay is not None:
        files[OVERLAY] = overlay
    return push_files(model, repo, files, about, private=private)
