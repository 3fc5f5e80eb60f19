"""A model folder out of an archive, which may be anybody's: only plain files, only below."""

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from model_download.errors import ModelInvalid

_Member = tuple[str, int, Callable[[], IO[bytes] | None]]


def unpack(archive: Path, name: str, folder: Path, max_bytes: int) -> None:
    """Write every file of an archive below an empty folder.

    Args:
        archive: A .tar.gz, .tgz or .zip.
        name: What messages call it; its ending says which.
        folder: Where to.
        max_bytes: The most that all files may have.

    Raises:
        ModelInvalid: It is no such archive, has links, leaves the folder or is too large.
    """
    left = max_bytes
    try:
        members = (
            _zipped(archive, name) if name.lower().endswith(".zip") else _tarred(archive, name)
        )
        for member, size, opened in members:
            left -= size
            if left < 0:
                raise ModelInvalid(
                    f"{name} unpacks to more than {max_bytes:,} bytes, the limit: raise "
                    "MODEL_MAX_BYTES if that is right"
                )
            path = PurePosixPath(member)
            if path.is_absolute() or ".." in path.parts:
                raise ModelInvalid(f"{name} has {member!r}, which is outside of its folder")
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            content = opened()
            if content is None:
                raise ModelInvalid(f"{name} has {member!r} without content: pack it again")
            with content, target.open("xb") as output:
                shutil.copyfileobj(content, output)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, FileExistsError) as error:
        raise ModelInvalid(
            f"{name} is no whole archive ({type(error).__name__}): pack it again"
        ) from error


def model_root(folder: Path) -> Path:
    """Where model.json is: in the folder, or in the one folder that it has.

    Raises:
        ModelInvalid: In neither.
    """
    inner = [one for one in folder.iterdir() if one.is_dir()]
    for candidate in (folder, *inner[:1]):
        if (candidate / "model.json").is_file() and (candidate == folder or len(inner) == 1):
            return candidate
    raise ModelInvalid("the archive has no model.json: pack the model folder itself")


def _tarred(archive: Path, name: str) -> Iterator[_Member]:
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            if member.isdir():
                continue
            if not member.isreg():
                raise ModelInvalid(f"{name} has {member.name!r}, which is a link or a device")
            yield member.name, member.size, lambda one=member: tar.extractfile(one)  # type: ignore[misc]


def _zipped(archive: Path, name: str) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            if member.is_dir():
                continue
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise ModelInvalid(f"{name} has {member.filename!r}, which is a link or a device")
            # Its own word for the size may be a lie: reading stops there.
            yield member.filename, member.file_size, lambda one=member: packed.open(one)  # type: ignore[misc]
