"""Fetch files of a source: resumable, with retries."""

import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import fsspec
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)

from model_download.errors import ModelInvalid, SourceFailed, TargetFailed
from model_download.progress import Progress

PROTOCOLS = ("file", "http", "https", "s3", "gs")
ARCHIVES = (".tar.gz", ".tgz", ".zip")

# Bytes per request, the most that a broken connection loses.
_BLOCK = 4 << 20
_TIMEOUT_S = 60.0
_MAX_BACKOFF_S = 20.0

_TRANSIENT_STATUS = {408, 425, 429}
_PERMANENT = (
    FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, ValueError,
    ssl.SSLCertVerificationError,
)  # fmt: skip


def protocol_of(source: str) -> str:
    """The part before the colon of a URL; "file" for a path."""
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):", source)
    return found[1].lower() if found else "file"


def shown(source: str) -> str:
    """`source` without secrets: user, password, query and fragment."""
    if protocol_of(source) == "file":
        return source
    return re.sub(r"//[^/@]*@", "//", re.split(r"[?#]", source)[0])


class Source:
    """A folder or an archive; it connects at the first `fetch`."""

    def __init__(self, source: str, patience_s: float, progress: Progress) -> None:
        self._protocol = protocol_of(source)
        self._patience_s = patience_s
        self._progress = progress
        self._location, self._query = source, ""
        if self._protocol == "file":
            self._location = _local_path(source)
        elif self._protocol in ("http", "https"):
            scheme, host, path, self._query, _ = urlsplit(source)
            # Existing escapes stay as they are: a signature covers the exact characters.
            self._location = urlunsplit(
                (scheme, host, quote(path, safe="/%:@!$&'()*+,;=~"), "", "")
            )
            self._query = quote(self._query, safe="/%:@!$&'()*+,;=~?[]")
        self._location = self._location.rstrip("/")
        self._fs: Any = None

    @property
    def is_archive(self) -> bool:
        """Whether the source is an archive of the folder."""
        return self._location.lower().endswith(ARCHIVES)

    def shown(self, file: str | None = None) -> str:
        """The name of a file, or of the source itself, in messages."""
        return shown(self._address(file))

    def fetch(self, file: str | None, part: Path, max_bytes: int) -> None:
        """Download a file into `part`, resuming after the bytes that it has.

        Transient errors are retried until no new bytes have arrived for `patience_s`.

        Args:
            file: Path in the folder; None is the source itself.
            part: The destination.
            max_bytes: Maximum size.

        Raises:
            SourceFailed: The file does not exist, or the source refuses or is unreachable.
            ModelInvalid: The file is larger than `max_bytes`.
            TargetFailed: `part` is not writable.
        """
        farthest = -1

        def resume() -> bool:
            """Return True at the end; False if the source failed after new bytes."""
            nonlocal farthest
            with _writing(part), part.open("ab") as output:
                try:
                    for chunk in self._chunks(file, output):
                        if output.tell() + len(chunk) > max_bytes:
                            raise ModelInvalid(
                                f"{self.shown(file)} is larger than the {max_bytes:,} bytes that "
                                "remain of the limit: raise MODEL_MAX_BYTES if the model is larger"
                            )
                        output.write(chunk)
                        self._progress.update(output.tell())
                except SourceFailed as error:
                    progressed, farthest = output.tell() > farthest, max(farthest, output.tell())
                    if error.transient and progressed:
                        return False
                    raise
                output.flush()
                os.fsync(output.fileno())
            return True

        while not self._retrying()(resume):
            pass

    def _retrying(self) -> Retrying:
        def log(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            seconds = state.next_action.sleep if state.next_action else 0
            self._progress.log(f"{error} (retrying in {seconds:.0f} s)")

        return Retrying(
            retry=retry_if_exception(lambda e: isinstance(e, SourceFailed) and e.transient),
            stop=stop_after_delay(self._patience_s),
            wait=wait_random_exponential(max=min(_MAX_BACKOFF_S, self._patience_s / 4)),
            before_sleep=log,
            reraise=True,
        )

    def _chunks(self, file: str | None, output: BinaryIO) -> Iterator[bytes]:
        """Yield the bytes after those in `output`, which is truncated if it cannot be resumed."""
        address = self._address(file)
        with self._reading(file):
            fs = self._file_system()
            size = fs.size(address)
        start = output.seek(0, os.SEEK_END)
        if size is not None and start > size:
            start = output.truncate(0)
        self._progress.start(self.shown(file).rpartition("/")[2], size, start)
        if start and start == size:
            return
        with self._reading(file):
            try:
                remote = self._open(fs, address, start)
            except _NoRanges:
                start = output.truncate(0)
                remote = self._open(fs, address, start)
        with remote:
            while True:
                with self._reading(file):
                    chunk = remote.read(_BLOCK)
                if not chunk:
                    break
                yield chunk
        if size is not None and output.tell() < size:
            raise SourceFailed(f"{self.shown(file)} ended early", transient=True)

    def _open(self, fs: Any, address: str, start: int) -> Any:
        """Open the remote file at byte `start`; HTTP needs ranges only beyond the first byte."""
        is_http = self._protocol in ("http", "https")
        remote = fs.open(
            address, "rb", block_size=0 if is_http and not start else _BLOCK, cache_type="none"
        )
        try:
            remote.seek(start)
            if is_http and start:
                remote.read(1)
                remote.seek(start)
        except ValueError:
            remote.close()
            raise _NoRanges from None
        return remote

    def _address(self, file: str | None) -> str:
        location = self._location
        if file is not None:
            location += "/" + (quote(file) if self._protocol in ("http", "https") else file)
        return f"{location}?{self._query}" if self._query else location

    def _file_system(self) -> Any:
        if self._fs is None:
            try:
                self._fs = _file_system(self._protocol)
            except ImportError:
                extra = self._protocol.removesuffix("s") if "http" in self._protocol else None
                extra = extra or self._protocol
                raise SourceFailed(
                    f"{self._protocol}: needs a package that is not installed: "
                    f"pip install 'prediction-services-model-download[{extra}]'"
                ) from None
        return self._fs

    @contextmanager
    def _reading(self, file: str | None) -> Iterator[None]:
        try:
            yield
        except (SourceFailed, _NoRanges):
            raise
        except Exception as error:
            # The libraries have no common base class of errors.
            raise _failure(self.shown(file), error) from error


class _NoRanges(Exception):
    """The server does not support range requests."""


def _local_path(source: str) -> str:
    path = unquote(urlsplit(source).path) if source[:5].lower() == "file:" else source
    return str(Path(path).expanduser().absolute())


def _file_system(protocol: str) -> Any:
    options: dict[str, Any] = {}
    if protocol in ("http", "https"):
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=None, sock_connect=_TIMEOUT_S, sock_read=_TIMEOUT_S)
        # trust_env: HTTP_PROXY and .netrc, as with other tools.
        options = {"encoded": True, "client_kwargs": {"timeout": timeout, "trust_env": True}}
    elif protocol == "gs":
        # Read every bucket over HTTP, without a gRPC request for its type first.
        os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
        options = {"access": "read_only"}
    return fsspec.filesystem(protocol, skip_instance_cache=True, **options)


def _failure(name: str, error: Exception) -> SourceFailed:
    """Create the error for a library's exception, whose message may hold secrets of the URL."""
    causes = list(_causes(error))

    def has(test: Callable[[BaseException], bool]) -> bool:
        return any(test(cause) for cause in causes)

    def named(part: str) -> bool:
        return has(lambda cause: part in type(cause).__name__)

    status = next(filter(None, map(_status, causes)), None)
    if named("Credential"):
        return SourceFailed(
            f"{name} needs credentials, found none: set those of its cloud in the "
            "environment, or for a public bucket FSSPEC_S3_ANON=true or FSSPEC_GS_TOKEN=anon"
        )
    if status in (401, 403) or has(lambda cause: str(cause).startswith("Forbidden")):
        return SourceFailed(
            f"{name} is refused ({status or 403}): check the credentials and what they may read"
        )
    if status == 404:
        return SourceFailed(f"{name} does not exist (404): check --source")
    if status is not None:
        transient = status in _TRANSIENT_STATUS or status >= 500
        return SourceFailed(f"{name} cannot be read: the server returned {status}", transient)
    if named("Certificate") or has(lambda cause: isinstance(cause, ssl.SSLCertVerificationError)):
        return SourceFailed(
            f"{name} cannot be read: the server's certificate is not trusted here, set "
            "SSL_CERT_FILE (s3: AWS_CA_BUNDLE) to the file of its authority"
        )
    if has(lambda cause: isinstance(cause, ConnectionRefusedError)):
        return SourceFailed(
            f"{name} cannot be read: the connection is refused, does the server run there?", True
        )
    if named("DNS") or has(lambda cause: isinstance(cause, socket.gaierror)):
        return SourceFailed(
            f"{name} cannot be read: its host does not resolve, check --source", True
        )
    if named("Timeout"):
        return SourceFailed(f"{name} cannot be read: the server timed out, try again later", True)
    if has(lambda cause: isinstance(cause, PermissionError)):
        return SourceFailed(f"{name} is refused: check the permissions and credentials to read it")
    if has(lambda cause: isinstance(cause, FileNotFoundError | NotADirectoryError)):
        return SourceFailed(f"{name} does not exist: check --source")
    what = type(error).__name__
    if isinstance(error, OSError) and error.errno:
        what += f", {os.strerror(error.errno)}"
    return SourceFailed(
        f"{name} cannot be read ({what}): check --source and try again",
        transient=not has(lambda cause: isinstance(cause, _PERMANENT)),
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _status(error: BaseException) -> int | None:
    """The HTTP status: aiohttp's, botocore's or gcsfs's."""
    if type(error).__module__ == "aiohttp.http_exceptions":
        return None  # aiohttp reports 400 for a broken connection
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        found = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(error, "status", None) or getattr(error, "code", None)
    return found if isinstance(found, int) and 400 <= found < 600 else None


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TargetFailed(f"{path}: {error.strerror}") from None
