"""Upload exports to the Hugging Face hub."""

import json
from pathlib import Path

from scenewise.exports.export import Export
from scenewise.models.card import OVERLAY, About
from scenewise.models.hub import Upload, upload
from scenewise.models.segmenter import CONFIG, Segmenter


def push_to_hub(
    export: Export,
    model: Segmenter,
    name: str,
    about: About,
    *,
    overlay: bytes | None = None,
    private: bool = False,
) -> Upload:
    """Upload the files of an export with ``config.json`` and a model card, in one commit.

    Args:
        export: the result of :func:`scenewise.exports.export_model`.
        model: for the configuration and the card.
        name: ``owner/repository``; created if it does not exist.
        about: licence, dataset and scores, for the card.
        overlay: an image with the model's labels, as PNG.
        private: of a repository that is created.

    Raises:
        UserError: scores of another model, not logged in, no connection, or the repository cannot
            be written to.
    """
    config = json.dumps(model.config(), indent=2, ensure_ascii=False) + "\n"
    files: dict[str, Path | bytes] = {CONFIG: config.encode()}
    files |= {file.name: file for file in export.files}
    if overlay is not None:
        files[OVERLAY] = overlay
    listed = sorted(name for name in files if name != OVERLAY)
    return upload(name, files | model.card(name, about, listed), private=private)
