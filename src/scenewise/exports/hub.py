"""Upload exports to the Hugging Face hub."""

from huggingface_hub import HfApi

from scenewise.errors import UserError
from scenewise.exports.export import Export
from scenewise.models.segmenter import Segmenter

_CARD = "README.md"


def push_to_hub(export: Export, model: Segmenter, name: str) -> str:
    """Upload the files of an export, and a model card if the repository has none.

    Args:
        export: the result of :func:`scenewise.exports.export_model`.
        model: for the card.
        name: ``owner/repository``; created if it does not exist.

    Returns:
        The repository's address.

    Raises:
        UserError: not logged in, no connection, or the repository cannot be written to.
    """
    api, readme = HfApi(), _card(export, model).encode()
    try:
        address = api.create_repo(name, exist_ok=True)
        for file in export.files:
            api.upload_file(path_or_fileobj=file, path_in_repo=file.name, repo_id=name)
        if not api.file_exists(name, _CARD):
            api.upload_file(path_or_fileobj=readme, path_in_repo=_CARD, repo_id=name)
    except Exception as error:  # of the hub, or of its HTTP client
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"cannot upload to '{name}' ({reason}); the files stay in "
            f"'{export.files[0].parent}': log in with hf auth login, check the name and the "
            "connection, and try again"
        ) from error
    return str(address)


def _card(export: Export, model: Segmenter) -> str:
    """The README of the repository, with the hub's front matter."""
    files = "\n".join(f"- `{file.name}`" for file in export.files)
    metadata = "\n".join(
        f"- {name}: {export.metadata[name]}"
        for name in ("input", "output", "opset", "attention")
        if name in export.metadata
    )
    network = (model.recipe or {}).get("name", "a custom network")
    return (
        "---\nlibrary_name: scenewise\npipeline_tag: image-segmentation\n---\n\n"
        f"Scene segmentation with {network}; written by `scenewise export`.\n\n"
        f"{files}\n\n{metadata}\n- classes: {', '.join(model.classes.names)}\n"
    )
