"""Models on the Hugging Face hub: fetched by ``hf-hub:owner/name[@revision]``, and uploaded."""

import logging
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import (
    CommitOperationAdd,
    HfApi,
    constants,
    hf_hub_download,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from scenewise.errors import UserError
from scenewise.files import parse_json
from scenewise.models.file_formats import describe_folder

_log = logging.getLogger(__name__)
_PREFIX = "hf-hub:"
_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_TIMEOUT = 5.0  # seconds until the cache is taken instead
CARD = "README.md"
GENERATED = "<!-- Written by Scenewise. Remove this line to keep your changes. -->"


class _Name(NamedTuple):
    repo: str
    revision: str | None


def is_hub_name(source: object) -> bool:
    """Whether a model is named on the hub, not by a path.

    >>> is_hub_name("hf-hub:me/danet"), is_hub_name("runs/danet")
    (True, False)
    """
    return str(source).startswith(_PREFIX)


def repository(source: str) -> str:
    """The repository in ``hf-hub:owner/name[@revision]``.

    Raises:
        UserError: not of that form.

    >>> repository("hf-hub:me/danet@v1")
    'me/danet'
    """
    return _parse(source).repo


def fetch(source: str, files: Sequence[str]) -> Path:
    """The folder of the cache that holds ``files`` of ``hf-hub:owner/name[@revision]``.

    The hub is asked once which commit that is; files of it that are in the cache are not fetched
    again. In offline mode (``HF_HUB_OFFLINE=1``), and where the hub does not answer within a few
    seconds, the cache is used.

    Args:
        source: names the model; without a revision the newest commit.
        files: their names; the first is a configuration that Scenewise wrote, in JSON.

    Raises:
        UserError: not found, no access, not a model of Scenewise, or neither connection nor cache.
    """
    name = _parse(source)
    commit, reason = _commit(name, files)
    download = partial(hf_hub_download, name.repo, local_files_only=commit is None)
    try:  # by the name first, which the cache then knows; its folder is called as the commit
        folder = Path(download(files[0], revision=name.revision)).parent
        _check_config(folder / files[0], name.repo)  # before the weights, which may be large
        for file in files[1:]:
            download(file, revision=folder.name)
    except UserError:
        raise
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"'{source}' is not in the cache, and {reason}; connect, or give a model folder"
        ) from error
    except GatedRepoError as error:
        raise _gated(name.repo) from error
    except Exception as error:  # of the HTTP client, which differs between versions, or the disk
        raise UserError(
            f"'{source}' cannot be fetched ({_reason(error)}); check the connection and the "
            "room on the disk"
        ) from error
    return folder


def upload(repo: str, files: Mapping[str, Path | bytes], *, private: bool = False) -> str:
    """Upload files in one commit, to a repository that is created if it does not exist.

    A model card that somebody has edited is kept: one without the line that marks it as generated.
    A warning says so.

    Args:
        repo: ``owner/name``.
        files: name in the repository -> file or content.
        private: of a repository that is created.

    Returns:
        The address of the repository.

    Raises:
        UserError: not logged in, no connection, or the repository cannot be written to.
    """
    api, content = HfApi(), dict(files)
    if not _NAME.fullmatch(repo):
        raise UserError(f"'{repo}' is not a name on the hub; give owner/name")
    try:
        address = api.create_repo(repo, exist_ok=True, private=private or None)
        if CARD in content and _edited_card(api, repo):
            del content[CARD]
            _log.warning(
                "the model card of '%s' was edited there and is kept, its scores too", repo
            )
        operations = [CommitOperationAdd(name, file) for name, file in content.items()]
        api.create_commit(repo, operations, commit_message="Upload a model of Scenewise")
    except Exception as error:  # of the hub, or of its HTTP client
        raise UserError(
            f"cannot upload to '{repo}' ({_reason(error)}); log in with hf auth login, check "
            "the name and the connection, and try again"
        ) from error
    return str(address)


def _parse(source: str) -> _Name:
    """Repository and revision.

    >>> _parse("hf-hub:me/danet@v1.0"), _parse("hf-hub:me/danet")
    (_Name(repo='me/danet', revision='v1.0'), _Name(repo='me/danet', revision=None))
    """
    source = source.replace("\\", "/")  # of a Path on Windows
    repo, at, revision = source.removeprefix(_PREFIX).partition("@")
    if not _NAME.fullmatch(repo) or (at and not re.fullmatch(r"[\w./-]+", revision, re.ASCII)):
        raise UserError(f"'{source}' is not a name on the hub; give hf-hub:owner/name[@revision]")
    return _Name(repo, revision or None)


def _commit(name: _Name, files: Sequence[str]) -> tuple[str | None, str]:
    """The commit that a name means now; None where the hub cannot be asked, and why."""
    if constants.HF_HUB_OFFLINE:
        return None, "offline mode is on (HF_HUB_OFFLINE)"
    cached = [try_to_load_from_cache(name.repo, f, revision=name.revision) for f in files]
    if re.fullmatch("[0-9a-f]{40}", name.revision or "") and all(
        isinstance(path, str) for path in cached
    ):
        return name.revision, ""  # a commit never changes
    source = f"{_PREFIX}{name.repo}"
    try:
        info = HfApi().model_info(name.repo, revision=name.revision, timeout=_TIMEOUT)
    except GatedRepoError as error:
        raise _gated(name.repo) from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"'{source}' is not on the hub, or private; check the name, or log in with hf auth "
            "login"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(
            f"'{source}' has no revision '{name.revision}'; give a branch, a tag or a commit"
        ) from error
    except Exception as error:  # of the HTTP client, which differs between versions
        return None, f"the hub does not answer ({_reason(error)})"
    present = {sibling.rfilename for sibling in info.siblings or ()}
    missing = [file for file in files if file not in present]
    if missing or info.sha is None:
        raise UserError(f"'{source}' has no {missing[0]}; give a model of Scenewise")
    return info.sha, "the hub does not answer"


def _check_config(path: Path, repo: str) -> None:
    try:
        config = parse_json(path.read_bytes())
    except ValueError as error:
        raise UserError(f"the configuration of '{repo}' is not valid JSON: {error}") from error
    if not isinstance(config, dict) or "scenewise" not in config:
        other = "a model of another library; give one that Scenewise uploaded"
        raise UserError(f"'{_PREFIX}{repo}' is {describe_folder(path.parent) or other}")


def _edited_card(api: HfApi, repo: str) -> bool:
    if not api.file_exists(repo, CARD):
        return False
    text = Path(api.hf_hub_download(repo, CARD)).read_text(encoding="utf-8")
    body = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    return bool(body.strip()) and GENERATED not in body  # the hub starts one with a licence alone


def _gated(repo: str) -> UserError:
    return UserError(
        f"'{_PREFIX}{repo}' asks for consent; accept its conditions on {constants.ENDPOINT}/{repo} "
        "and log in with hf auth login"
    )


def _reason(error: BaseException) -> str:
    """The first line of an error, and of what caused it.

    >>> try:
    ...     try:
    ...         raise OSError("no route")
    ...     except OSError as cause:
    ...         raise ValueError("upload failed") from cause
    ... except ValueError as error:
    ...     print(_reason(error))
    upload failed: no route
    """
    lines = [_first_line(error)]
    while error.__cause__ is not None:
        error = error.__cause__
    if _first_line(error) not in lines[0]:
        lines.append(_first_line(error))
    return ": ".join(line.rstrip(".") for line in lines)


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
