"""Folders in content-addressed storage: weights, models, evaluations, cards."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from feature_repo.errors import StateError
from feature_repo.home import Home, digest_of, folder_digests, new_folder
from tasks.types import Folder


def store_folder(home: Home, name: str, write: Callable[[Path], None]) -> Folder:
    """Let ``write`` fill a temporary folder, then store it under the digest of its files."""
    home.path("folders", "x")
    with tempfile.TemporaryDirectory(dir=home.root / "folders", prefix=".") as temporary:
        write(Path(temporary))
        digest = digest_of(folder_digests(Path(temporary)))
        target = home.path("folders", digest)
        if target.exists():
            os.utime(target)  # in use again: housekeeping leaves what is new
        else:
            with new_folder(target) as fresh:
                shutil.copytree(temporary, fresh, dirs_exist_ok=True)
    return Folder(name, str(target), digest)


def open_folder(folder: Folder) -> Path:
    """The folder's path, its content checked against its digest.

    Raises:
        StateError: it is gone, or a file in it was changed.
    """
    path = Path(folder.uri)
    if not path.is_dir() or digest_of(folder_digests(path)) != folder.digest:
        raise StateError(
            f"folder {folder.name!r} at {path} is gone or changed; run again with "
            "'pyflyte run --overwrite-cache', which makes it anew"
        )
    return path
