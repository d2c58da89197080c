"""Stores: folders that fsspec opens by a URL, such as ``s3://bucket/images``: list, read, write.

Credentials are the store's own matter: environment variables or its configuration files.
"""

import json
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import fsspec

from scenewise.data.images import SUFFIXES
from scenewise.errors import UserError

# Items of fsspec's listings that change with the content of a file, the surest first.
_STAMPS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified")
# Stores in which a file appears whole; in others it is renamed when it is complete.
_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "obs"}
_HEAD = 8192  # bytes of a label file that hold its record


def is_url(text: object) -> bool:
    """Whether fsspec opens it: it names a protocol.

    >>> is_url("s3://bucket/images"), is_url("images")
    (True, False)
    """
    return "://" in str(text)


class Listed(NamedTuple):
    """A file in a store: its path within it, its URL, and what changes with its content."""

    path: str
    url: str
    identity: list[Any]


class Store:
    """A folder of a store.

    Args:
        url: of the folder, or of a file or a pattern that is listed.

    Raises:
        UserError: the protocol or its package is missing, or files cannot be shared through it.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            self.fs, self.path = fsspec.core.url_to_fs(self.url)
        except Exception as error:  # every file system has its own types
            raise self._failed("open", error) from error
        protocols = {self.fs.protocol} if isinstance(self.fs.protocol, str) else self.fs.protocol
        if "memory" in protocols:
            raise UserError(f"'{url}' exists in one process only; give a folder or a store")
        self._whole = bool(_OBJECT_STORES & set(protocols))

    def images(self) -> list[Listed]:
        """The images in the folder, those that the pattern fits, or the one image, in order.

        Raises:
            UserError: no images, or the store cannot be listed.
        """
        found = [
            self._listed(info)
            for info in self._infos()
            if info["type"] == "file" and os.path.splitext(info["name"])[1].lower() in SUFFIXES
        ]
        if not found:
            raise UserError(
                f"no image found in '{self.url}'; give a folder of images, or a pattern such as "
                "'**/*.jpg'"
            )
        return sorted(found)

    def _infos(self) -> list[dict[str, Any]]:
        try:
            if fsspec.core.has_magic(self.path):
                return list(self.fs.glob(self.path, detail=True).values())
            return list(self.fs.ls(self.path, detail=True))
        except FileNotFoundError:
            raise UserError(f"'{self.url}' not found; check the address") from None
        except Exception as error:  # every file system has its own types
            raise self._failed("list", error) from error

    def _listed(self, info: dict[str, Any]) -> Listed:
        stamp = next((str(info[key]) for key in _STAMPS if info.get(key) is not None), None)
        path = str(info["name"])
        return Listed(path, str(self.fs.unstrip_protocol(path)), [info.get("size"), stamp])

    def identity(self) -> list[Any]:
        """What changes with the content of the file at the URL.

        Raises:
            UserError: the file is not found, or the store cannot be asked.
        """
        try:
            return self._listed(self.fs.info(self.path)).identity
        except Exception as error:  # every file system has its own types
            raise self._failed("read", error) from error

    def has(self, name: str) -> bool:
        """Whether the file ``name`` exists in the folder.

        Raises:
            UserError: the store cannot be asked.
        """
        try:
            return bool(self.fs.exists(f"{self.path}/{name}"))
        except Exception as error:  # every file system has its own types
            raise self._failed("open", error) from error

    def names(self) -> set[str]:
        """The paths of all files below the folder; empty if it does not exist yet.

        Raises:
            UserError: the store cannot be listed.
        """
        try:
            return {str(p)[len(self.path) :].lstrip("/") for p in self.fs.find(self.path)}
        except FileNotFoundError:
            return set()
        except Exception as error:  # every file system has its own types
            raise self._failed("list", error) from error

    def read(self, name: str = "", head: bool = False) -> bytes:
        """The file ``name`` in the folder, or the file at the URL; with ``head`` its first bytes.

        Raises:
            UserError: it cannot be read.
        """
        path = f"{self.path}/{name}" if name else self.path
        try:
            return bytes(self.fs.cat_file(path, **({"start": 0, "end": _HEAD} if head else {})))
        except Exception as error:  # every file system has its own types
            raise self._failed("read", error) from error

    def put(self, file: Path, name: str) -> None:
        """Copy a local file to ``name`` in the folder; it appears whole or not at all.

        Raises:
            UserError: it cannot be written.
        """
        target = f"{self.path}/{name}"
        try:
            if self._whole:
                self.fs.put_file(str(file), target)
                return
            folder, _, last = target.rpartition("/")
            self.fs.makedirs(folder, exist_ok=True)
            temporary = f"{folder}/.{secrets.token_hex(4)}.{last}"
            try:
                self.fs.put_file(str(file), temporary)
                self.fs.mv(temporary, target)
            finally:
                if self.fs.exists(temporary):
                    self.fs.rm_file(temporary)
        except Exception as error:  # every file system has its own types
            raise self._failed("write", error) from error

    def put_json(self, value: Any, name: str) -> None:
        """Write ``value`` to ``name`` in the folder as indented JSON; see :meth:`put`."""
        self.put_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", name)

    def put_text(self, text: str, name: str) -> None:
        """Write ``text`` to ``name`` in the folder as UTF-8; see :meth:`put`."""
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "file")
            file.write_text(text, encoding="utf-8")
            self.put(file, name)

    def _failed(self, what: str, error: Exception) -> UserError:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        return UserError(
            f"cannot {what} '{self.url}' ({reason}); check the address, your credentials for the "
            "store and its free space"
        )
