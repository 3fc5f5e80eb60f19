"""Unpack an untrusted archive: only regular files, only below the folder."""

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from model_download.errors import ModelInvalid

DESCRIPTION = "model.json"

_Member = tuple[str, int, Callable[[], IO[bytes] | None]]


def unpack(archive: Path, name: str, folder: Path, max_bytes: int) -> None:
    """Unpack an archive into an empty folder.

    Args:
        archive: A .tar.gz, .tgz or .zip.
        name: Its name in messages; the extension selects the format.
        folder: The destination.
        max_bytes: Maximum size of all files together.

    Raises:
        ModelInvalid: Not such an archive, too large, with links or with paths outside the folder.
    """
    remaining = max_bytes
    try:
        members = (
            _zipped(archive, name) if name.lower().endswith(".zip") else _tarred(archive, name)
        )
        for member, size, open_member in members:
            remaining -= size
            if remaining < 0:
                raise ModelInvalid(
                    f"{name} unpacks to more than {max_bytes:,} bytes, the limit: raise "
                    "MODEL_MAX_BYTES if the model is that large"
                )
            path = PurePosixPath(member)
            if path.is_absolute() or ".." in path.parts:
                raise ModelInvalid(
                    f"{name} has {member!r}, which is outside of the folder: pack it again"
                )
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            content = open_member()
            if content is None:
                raise ModelInvalid(f"{name} has {member!r} without content: pack it again")
            with content, target.open("xb") as output:
                shutil.copyfileobj(content, output)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, FileExistsError) as error:
        raise ModelInvalid(
            f"{name} is not a complete archive ({type(error).__name__}): pack it again"
        ) from error


def model_root(folder: Path) -> Path:
    """The model folder of an unpacked archive: `folder` or its only subfolder.

    It is the one that has model.json. Without one it is `folder`, or the subfolder if nothing else
    is in the archive.

    Raises:
        ModelInvalid: The archive has no file.
    """
    # Without what macOS adds: AppleDouble files.
    entries = [
        one for one in folder.iterdir() if one.name != "__MACOSX" and not one.name.startswith("._")
    ]
    inner = [one for one in entries if one.is_dir()]
    only = inner[0] if len(inner) == 1 else folder
    for candidate in (folder, only):
        if (candidate / DESCRIPTION).is_file():
            return candidate
    if not entries:
        raise ModelInvalid("the archive has no file: pack the model folder itself")
    return only if len(entries) == 1 else folder


def _tarred(archive: Path, name: str) -> Iterator[_Member]:
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            if member.isdir():
                continue
            if not member.isreg():
                raise ModelInvalid(f"{name} has {member.name!r}, which is a link or a device")
            yield member.name, member.size, lambda one=member: tar.extractfile(one)  # type: ignore[misc]


def _zipped(archive: Path, name: str) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            if member.is_dir():
                continue
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise ModelInvalid(f"{name} has {member.filename!r}, which is a link or a device")
            # The declared size may be wrong: reading stops there.
            yield member.filename, member.file_size, lambda one=member: zipped.open(one)  # type: ignore[misc]
