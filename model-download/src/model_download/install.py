"""A version from its source into the repository: beside the old one, checked, then exchanged."""

import ctypes
import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import orjson

from model_download.archives import model_root, unpack
from model_download.errors import ModelInvalid, TargetFailed
from model_download.progress import Progress
from model_download.settings import Settings
from model_download.sources import Source

DESCRIPTION = "model.json"

_EXCHANGE = 2  # renameat2's RENAME_EXCHANGE
_HERE = -100  # AT_FDCWD
# Where the file system cannot exchange two folders, such as NFS.
_CANNOT = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def install(settings: Settings, progress: Progress) -> bool:
    """Have `settings.target`/`settings.version` be the model that the source has.

    Readers see the old version or the new one, whole. What a broken download has left is used by
    the next; a failed one leaves the old version as it was.

    Returns:
        Whether anything was changed; False when it is there already.

    Raises:
        DownloadFailed: One sentence.
    """
    version = settings.target / settings.version
    staging = settings.target / f".{settings.version}.download"
    try:
        settings.target.mkdir(parents=True, exist_ok=True)
        with _alone(settings.target / f".{settings.version}.lock", progress):
            staging.mkdir(exist_ok=True)
            source = Source(settings.source, settings.patience_s, progress)
            folder = (
                _from_archive(source, settings, staging)
                if source.is_archive
                else _from_folder(source, settings, staging)
            )
            if _is_installed(version, folder):
                shutil.rmtree(staging)
                return False
            _sync(folder)
            _put(folder, version, progress)
            shutil.rmtree(staging, ignore_errors=True)
            return True
    except OSError as error:
        where = error.filename or settings.target
        raise TargetFailed(
            f"{where} cannot be written ({error.strerror}): check its owner and the space left"
        ) from error


def _from_archive(source: Source, settings: Settings, staging: Path) -> Path:
    archive = staging / "archive"
    source.fetch(None, archive, settings.max_bytes)
    if settings.sha256 is not None:
        _verify(archive, settings.sha256, source.shown(), "--sha256")
    unpacked = staging / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    unpacked.mkdir()
    name = settings.source.partition("?")[0].rpartition("/")[2]
    unpack(archive, name, unpacked, settings.max_bytes)
    folder = model_root(unpacked)
    for file, checksum in _files(folder / DESCRIPTION).items():
        _verify(folder / file, checksum, file, DESCRIPTION)
    return folder


def _from_folder(source: Source, settings: Settings, staging: Path) -> Path:
    folder = staging / "folder"
    folder.mkdir(exist_ok=True)
    # Never gone on with: it says what all else is to be, and may be another by now.
    description = folder / DESCRIPTION
    description.unlink(missing_ok=True)
    left = settings.max_bytes
    source.fetch(DESCRIPTION, description, left)
    if settings.sha256 is not None:
        _verify(description, settings.sha256, source.shown(DESCRIPTION), "--sha256")
    files = _files(description)
    for file, checksum in files.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        left -= description.stat().st_size
        if not (path.is_file() and _sha256(path) == checksum):
            part = staging / f"{checksum[:32]}.part"
            source.fetch(file, part, left)
            _verify(part, checksum, source.shown(file), DESCRIPTION)
            part.replace(path)
        left -= path.stat().st_size
    for stray in [one for one in folder.rglob("*") if one.is_file()]:
        if str(stray.relative_to(folder)) not in {DESCRIPTION, *files}:
            stray.unlink()  # of an earlier try, when the source had another model
    return folder


def _files(description: Path) -> dict[str, str]:
    """Checksums by path, as model.json has them."""
    try:
        document = orjson.loads(description.read_bytes())
        files = document["files"]
        found = {str(file): str(checksum) for file, checksum in files.items()}
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ModelInvalid(
            f"{DESCRIPTION} is no description of a model: files is missing or it is no JSON"
        ) from error
    for file in found:
        path = PurePosixPath(file)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ModelInvalid(f"{DESCRIPTION}: files names {file!r}, outside of the folder")
    if not found:
        raise ModelInvalid(f"{DESCRIPTION}: files is empty, expected the model's files")
    return found


def _verify(path: Path, checksum: str, name: str, said_by: str) -> None:
    if not path.is_file():
        raise ModelInvalid(f"{name} is missing, and {said_by} names it: pack the model again")
    actual = _sha256(path)
    if actual != checksum:
        path.unlink()  # nothing to go on with
        raise ModelInvalid(
            f"{name} fails its checksum: sha256 is {actual[:12]}…, {said_by} says "
            f"{checksum[:12]}…; try again, or correct the source"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _is_installed(version: Path, folder: Path) -> bool:
    """Whether the version has this description and its files are what that says."""
    try:
        if (version / DESCRIPTION).read_bytes() != (folder / DESCRIPTION).read_bytes():
            return False
        files = _files(folder / DESCRIPTION)
        return all(_sha256(version / file) == checksum for file, checksum in files.items())
    except (FileNotFoundError, NotADirectoryError):
        return False


def _sync(folder: Path) -> None:
    """Have everything on the disk before its name says so."""
    for path in [folder, *folder.rglob("*")]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _put(folder: Path, version: Path, progress: Progress) -> None:
    """Give the new folder its name; what had it goes to the new folder's old place."""
    if not version.exists():
        folder.rename(version)
    elif not _exchanged(folder, version):
        progress.say(f"{version.parent} cannot exchange folders: for a moment there is no version")
        aside = version.with_name(f".{version.name}.old")
        shutil.rmtree(aside, ignore_errors=True)
        version.rename(aside)
        folder.rename(version)
        shutil.rmtree(aside)
    descriptor = os.open(version.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exchanged(one: Path, other: Path) -> bool:
    """Exchange two folders at once; False where that cannot be done."""
    system = ctypes.CDLL(None, use_errno=True)
    if not hasattr(system, "renameat2"):
        return False
    if system.renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), str(other))


@contextmanager
def _alone(path: Path, progress: Progress) -> Iterator[None]:
    """Wait for another download of the same version to end."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say("another download of this version is running: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
