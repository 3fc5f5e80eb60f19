"""Install a version into the repository: download beside the old one, verify, then exchange."""

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

from model_download.archives import DESCRIPTION, model_root, unpack
from model_download.errors import ModelInvalid, TargetFailed
from model_download.progress import Progress
from model_download.settings import Settings
from model_download.sources import Source

_RENAME_EXCHANGE = 2  # flag of renameat2
_AT_FDCWD = -100  # paths relative to the working directory
# Errors of file systems that cannot exchange two folders, such as NFS.
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)


def install(settings: Settings, progress: Progress) -> bool:
    """Install the source's model as `settings.target`/`settings.version`.

    Readers see either the old version or the complete new one. An interrupted download is resumed
    by the next; a failed one leaves the old version unchanged.

    Returns:
        Whether the version changed; False if it is installed already.

    Raises:
        DownloadFailed: The message is one sentence.
    """
    version = settings.target / settings.version
    staging = settings.target / f".{settings.version}.download"
    try:
        settings.target.mkdir(parents=True, exist_ok=True)
        with _locked(settings.target / f".{settings.version}.lock", progress):
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
            _publish(folder, version, progress)
            shutil.rmtree(staging, ignore_errors=True)
            return True
    except OSError as error:
        where = error.filename or settings.target
        raise TargetFailed(
            f"{where} cannot be written ({error.strerror}): check its owner and the free space"
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
    if not (folder / DESCRIPTION).is_file():
        if settings.sha256 is None:
            raise ModelInvalid(
                f"the archive has no {DESCRIPTION} with the checksums of its files, expected "
                "--sha256 of the archive: set it (MODEL_SHA256), or pack a folder that "
                "seldon-cli model import has made"
            )
        return folder
    for file, checksum in _files(folder / DESCRIPTION).items():
        _verify(folder / file, checksum, file, DESCRIPTION)
    return folder


def _from_folder(source: Source, settings: Settings, staging: Path) -> Path:
    folder = staging / "folder"
    folder.mkdir(exist_ok=True)
    # Never resumed: it lists all other files, and the source may have changed it.
    description = folder / DESCRIPTION
    description.unlink(missing_ok=True)
    remaining = settings.max_bytes
    source.fetch(DESCRIPTION, description, remaining)
    if settings.sha256 is not None:
        _verify(description, settings.sha256, source.shown(DESCRIPTION), "--sha256")
    files = _files(description)
    for file, checksum in files.items():
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        remaining -= description.stat().st_size
        if not (path.is_file() and _sha256(path) == checksum):
            part = staging / f"{checksum[:32]}.part"
            source.fetch(file, part, remaining)
            _verify(part, checksum, source.shown(file), DESCRIPTION)
            part.replace(path)
        remaining -= path.stat().st_size
    for stray in [one for one in folder.rglob("*") if one.is_file()]:
        if str(stray.relative_to(folder)) not in {DESCRIPTION, *files}:
            stray.unlink()  # of an earlier attempt, when the source had another model
    return folder


def _files(description: Path) -> dict[str, str]:
    """The checksums in model.json, by path."""
    try:
        document = orjson.loads(description.read_bytes())
        files = document["files"]
        found = {str(file): str(checksum) for file, checksum in files.items()}
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ModelInvalid(
            f"{DESCRIPTION} is not a model description, expected JSON with files"
        ) from error
    for file in found:
        path = PurePosixPath(file)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ModelInvalid(f"{DESCRIPTION}: files names {file!r}, outside of the folder")
    if not found:
        raise ModelInvalid(f"{DESCRIPTION}: files is empty, expected the model's files")
    return found


def _verify(path: Path, checksum: str, name: str, reference: str) -> None:
    if not path.is_file():
        raise ModelInvalid(f"{name} is missing, expected it from {reference}: pack the model again")
    actual = _sha256(path)
    if actual != checksum:
        path.unlink()  # a resumed download would fail again
        raise ModelInvalid(
            f"{name} fails its checksum: sha256 is {actual[:12]}…, {reference} has "
            f"{checksum[:12]}…; try again, or correct the source"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _is_installed(version: Path, folder: Path) -> bool:
    """Whether the version has the same files."""
    return _checksums(version) == _checksums(folder)


def _checksums(folder: Path) -> dict[Path, str]:
    """The checksum of each file, without what Python caches beside a model.py."""
    return {
        path.relative_to(folder): _sha256(path)
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def _sync(folder: Path) -> None:
    """Flush the folder to disk, before its rename."""
    for path in [folder, *folder.rglob("*")]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _publish(folder: Path, version: Path, progress: Progress) -> None:
    """Rename the folder to the version; an existing version is exchanged with it."""
    if not version.exists():
        folder.rename(version)
    elif not _exchange(folder, version):
        progress.log(f"{version.parent} cannot exchange folders: the version is briefly absent")
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


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders atomically; False if the system does not support it."""
    system = ctypes.CDLL(None, use_errno=True)
    if not hasattr(system, "renameat2"):
        return False
    if (
        system.renameat2(
            _AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE
        )
        == 0
    ):
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(other))


@contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    """Lock the version against concurrent downloads."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.log("another download of this version is running: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
