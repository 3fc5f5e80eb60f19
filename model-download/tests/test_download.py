"""`download-model` as a process, from folders and real HTTP servers."""

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from polling import eventually

FILES = {"model.tflite": os.urandom(300_000), "saved_model/saved_model.pb": b"graph" * 100}


def a_model(folder: Path, files: dict[str, bytes] = FILES, **more: object) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    checksums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    document = {"name": "deep_mnist", "version": "1", "files": checksums, **more}
    (folder / "model.json").write_text(json.dumps(document))
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def command(source: object, target: Path, *words: str) -> list[str]:
    return [
        *(sys.executable, "-m", "model_download", "--source", str(source)),
        *("--target", str(target), "--patience-s", "3", *words),
    ]


def download(
    source: object, target: Path, *words: str, **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(source, target, *words),
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def assert_installed(version: Path, files: dict[str, bytes] = FILES) -> None:
    for name, content in files.items():
        assert (version / name).read_bytes() == content
    # Nothing of the download is left beside it but the lock.
    assert {one.name for one in version.parent.iterdir()} == {"1", ".1.lock"}


def assert_refused(done: subprocess.CompletedProcess[str], pattern: str) -> None:
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert re.search(pattern, last), last


class Files(BaseHTTPRequestHandler):
    """A folder over HTTP with ranges, at the speed and with the faults that a test wants."""

    server: "FileServer"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        path = self.server.folder / urlsplit(self.path).path.lstrip("/")
        if not path.is_file():
            self.send_error(404)
            return
        content = path.read_bytes()
        start, status = 0, 200
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, status = int(asked[1]), 206
        if body:
            self.server.asked.append((path.name, start))
        self.send_response(status)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content) - start))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if not body:
            return
        for position in range(start, len(content), 10_000):
            if path.name == "model.tflite" and self.server.slow.is_set():
                time.sleep(0.1)
            if path.name == "model.tflite" and self.server.breaks:
                self.server.breaks -= 1
                self.wfile.write(content[position : position + 20_000])
                self.wfile.flush()
                self.connection.close()
                return
            try:
                self.wfile.write(content[position : position + 10_000])
            except OSError:
                return

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class FileServer(ThreadingHTTPServer):
    """What it was asked for: file and first byte."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Files)
        self.folder = folder
        self.asked: list[tuple[str, int]] = []
        self.slow = threading.Event()
        self.breaks = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def web(tmp_path: Path) -> Iterator[FileServer]:
    folder = a_model(tmp_path / "web" / "model").parent
    with FileServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def tar_of(path: Path, members: dict[str, bytes], link: str | None = None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(info)
    return path


def packed(folder: Path, below: str = "") -> dict[str, bytes]:
    return {
        below + str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# What is installed


@pytest.mark.parametrize("form", ["{}", "file:{}", "file://{}"])
def test_from_a_folder(tmp_path: Path, form: str) -> None:
    source = a_model(tmp_path / "a model")
    done = download(form.format(source), tmp_path / "to")
    assert done.returncode == 0, done.stderr
    assert "is installed" in done.stdout
    assert_installed(tmp_path / "to" / "1")


def test_from_a_folder_over_http(web: FileServer, tmp_path: Path) -> None:
    checksum = sha256(web.folder / "model" / "model.json")
    done = download(f"{web.url}/model", tmp_path / "to", "--sha256", checksum)
    assert done.returncode == 0, done.stderr
    assert_installed(tmp_path / "to" / "1")


@pytest.mark.parametrize("below", ["", "deep_mnist/"])
def test_from_archives(web: FileServer, tmp_path: Path, below: str) -> None:
    members = packed(web.folder / "model", below)
    archive = tar_of(web.folder / "model.tar.gz", members)
    with zipfile.ZipFile(web.folder / "model.zip", "w") as packing:
        for name, content in members.items():
            packing.writestr(name, content)
        if below:  # as macOS packs a folder
            packing.writestr(f"__MACOSX/{below}._model.json", b"")
            packing.writestr("._deep_mnist", b"")
    done = download(f"{web.url}/model.tar.gz", tmp_path / "tar", "--sha256", sha256(archive))
    assert done.returncode == 0, done.stderr
    assert_installed(tmp_path / "tar" / "1")
    done = download(f"{web.url}/model.zip?signature=secret", tmp_path / "zip")
    assert done.returncode == 0, done.stderr
    assert "secret" not in done.stderr
    assert_installed(tmp_path / "zip" / "1")


@pytest.mark.parametrize("below", ["", "deep_mnist/"])
def test_a_model_alone_is_installed_from_an_archive_of_a_stated_checksum(
    tmp_path: Path, below: str
) -> None:
    target = tmp_path / "to"

    def install(*files: str) -> subprocess.CompletedProcess[str]:
        members = {f"{below}{name}": name.encode() for name in files}
        archive = tar_of(tmp_path / "model.tar.gz", members)
        return download(archive, target, "--sha256", sha256(archive))

    done = install("a.tflite", "b.tflite", "assets/words.txt")
    assert done.returncode == 0, done.stderr
    assert packed(target / "1").keys() == {"a.tflite", "b.tflite", "assets/words.txt"}
    assert "is installed" in install("a.tflite").stdout
    assert packed(target / "1") == {"a.tflite": b"a.tflite"}
    (target / "1" / "__pycache__").mkdir()
    (target / "1" / "__pycache__" / "model.pyc").touch()
    assert "is there already" in install("a.tflite").stdout


def test_by_the_environment(tmp_path: Path) -> None:
    environ = {
        "MODEL_SOURCE": str(a_model(tmp_path / "model")),
        "MODEL_TARGET": str(tmp_path / "to"),
        "MODEL_VERSION": "3",
    }
    done = subprocess.run(
        [sys.executable, "-m", "model_download"],
        env=os.environ | environ,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0
    assert (tmp_path / "to" / "3" / "model.json").is_file()


def test_a_second_time_changes_nothing(tmp_path: Path) -> None:
    source = a_model(tmp_path / "model")
    download(source, tmp_path / "to")
    inode = (tmp_path / "to" / "1").stat().st_ino
    done = download(source, tmp_path / "to")
    assert done.returncode == 0
    assert "is there already" in done.stdout
    assert (tmp_path / "to" / "1").stat().st_ino == inode


def test_a_damaged_version_is_replaced(tmp_path: Path) -> None:
    source = a_model(tmp_path / "model")
    download(source, tmp_path / "to")
    (tmp_path / "to" / "1" / "model.tflite").write_bytes(b"short")
    assert "is installed" in download(source, tmp_path / "to").stdout
    assert_installed(tmp_path / "to" / "1")


def test_a_reader_sees_the_old_version_or_the_new_and_never_none(tmp_path: Path) -> None:
    sources = [a_model(tmp_path / f"model{i}", {"model.tflite": bytes([i]) * 1000}) for i in (0, 1)]
    target = tmp_path / "to"
    assert download(sources[0], target).returncode == 0
    seen: set[bytes] = set()
    stop = threading.Event()
    failures: list[OSError] = []

    def read() -> None:
        while not stop.is_set():
            try:
                seen.add((target / "1" / "model.tflite").read_bytes())
            except OSError as error:
                failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for i in (1, 0, 1):
        assert download(sources[i], target).returncode == 0
    stop.set()
    reader.join()
    assert not failures
    assert seen == {b"\0" * 1000, b"\1" * 1000}


# What breaks off


def test_what_was_killed_goes_on_where_it_was(web: FileServer, tmp_path: Path) -> None:
    web.slow.set()
    part = tmp_path / "to" / ".1.download"
    with subprocess.Popen(
        command(f"{web.url}/model", tmp_path / "to"), stderr=subprocess.DEVNULL
    ) as process:
        eventually(lambda: any(one.stat().st_size > 50_000 for one in part.glob("*.part")))
        process.send_signal(signal.SIGKILL)
    there = max(one.stat().st_size for one in part.glob("*.part"))
    assert not (tmp_path / "to" / "1").exists()
    web.slow.clear()
    web.asked.clear()
    assert download(f"{web.url}/model", tmp_path / "to").returncode == 0
    assert min(start for name, start in web.asked if name == "model.tflite") >= there
    assert_installed(tmp_path / "to" / "1")


def test_a_connection_that_breaks_is_made_again(web: FileServer, tmp_path: Path) -> None:
    web.breaks = 3
    done = download(f"{web.url}/model", tmp_path / "to")
    assert done.returncode == 0, done.stderr
    assert len([1 for name, _ in web.asked if name == "model.tflite"]) > 3
    assert_installed(tmp_path / "to" / "1")


def test_two_at_once_do_not_harm_each_other(web: FileServer, tmp_path: Path) -> None:
    web.slow.set()
    first, second = (
        subprocess.Popen(
            command(f"{web.url}/model", tmp_path / "to"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    )
    texts = [process.communicate(timeout=60) for process in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), texts
    assert any("waiting for it" in text[1] for text in texts)
    assert_installed(tmp_path / "to" / "1")


# What is refused; the old version stays


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Path]:
    """A target with a version, which every refusal leaves as it is."""
    old = {"model.tflite": b"old"}
    target = tmp_path / "target"
    assert download(a_model(tmp_path / "old", old), target).returncode == 0
    yield target
    assert (target / "1" / "model.tflite").read_bytes() == b"old"


def test_a_wrong_checksum(installed: Path, tmp_path: Path) -> None:
    source = a_model(tmp_path / "model")
    (source / "model.tflite").write_bytes(b"other")
    assert_refused(download(source, installed), "model.tflite fails its checksum: sha256 is")
    source = a_model(tmp_path / "model")
    done = download(source, installed, "--sha256", "0" * 64)
    assert_refused(done, "model.json fails its checksum.*--sha256 has 000000000000")


def test_nothing_there(installed: Path, web: FileServer, tmp_path: Path) -> None:
    assert_refused(download(tmp_path / "none", installed), "does not exist: check --source")
    assert_refused(download(f"{web.url}/none", installed), "does not exist")


def test_nobody_there(installed: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as closed:
        url = f"http://user:secret@127.0.0.1:{closed.server_port}/model"
    done = download(url, installed)
    assert_refused(done, "the connection is refused")
    assert "secret" not in done.stderr


@pytest.mark.parametrize(
    ("members", "link", "pattern"),
    [
        ({"../out": b""}, None, "'../out', which is outside"),
        ({"/tmp/out": b""}, None, "'/tmp/out', which is outside"),  # noqa: S108
        ({"model.json": b"{}"}, "link", "'link', which is a link"),
        ({"a": b""}, None, "no model.json .*, expected --sha256 of the archive"),
        ({}, None, "the archive has no file"),
        ({"model.json": b"{}"}, None, "not a model description"),
        ({"model.json": b'{"files": {"../x": "0"}}'}, None, "'../x', outside"),
        ({"model.json": b'{"files": {"x": "0"}}'}, None, "x is missing"),
    ],
)
def test_a_bad_archive(
    installed: Path, tmp_path: Path, members: dict[str, bytes], link: str | None, pattern: str
) -> None:
    assert_refused(download(tar_of(tmp_path / "a.tar.gz", members, link), installed), pattern)


def test_no_archive_at_all(installed: Path, tmp_path: Path) -> None:
    for name in ("a.tar.gz", "a.zip"):
        (tmp_path / name).write_bytes(b"not an archive" * 100)
        assert_refused(download(tmp_path / name, installed), f"{name} is not a complete archive")


def test_more_than_the_limit(installed: Path, tmp_path: Path) -> None:
    source = a_model(tmp_path / "model")
    done = download(source, installed, "--max-bytes", "100000")
    assert_refused(done, "raise MODEL_MAX_BYTES")
    bomb = tar_of(tmp_path / "bomb.tar.gz", {"model.json": b"0" * 5_000_000})
    assert_refused(download(bomb, installed, "--max-bytes", "100000"), "unpacks to more than")


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        (("--source", "ftp://host/x"), "--source is 'ftp://host/x', expected"),
        (("--version", "../1"), "--version is '../1', expected"),
        (("--sha256", "abc"), "--sha256 is 'abc', expected 64"),
    ],
)
def test_wrong_options(
    installed: Path, tmp_path: Path, words: tuple[str, ...], pattern: str
) -> None:
    assert_refused(download(tmp_path, installed, *words), pattern)


def test_a_target_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = download(a_model(tmp_path / "model"), tmp_path / "file" / "below")
    assert_refused(done, "cannot be written")
