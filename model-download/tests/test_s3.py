"""Downloads from a real S3 server (moto), with the environment that `make test-stack` makes.

No environment has both: botocore requires python-dateutil before 3, the Kubernetes client 3 or
later. So constraints.txt pins none.
"""

import hashlib
import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = pytest.mark.stack

ROOT = Path(__file__).parents[2]
PUT = """
import s3fs, sys
fs = s3fs.S3FileSystem()
fs.mkdir('bucket')
fs.put(sys.argv[1], 'bucket/models/1', recursive=True)
"""


@dataclass(frozen=True)
class Store:
    """The environment's Python, and the variables that lead to the server."""

    python: str
    environ: dict[str, str]

    def download(self, source: str, target: Path) -> subprocess.CompletedProcess[str]:
        command = [self.python, "-m", "model_download", "--source", source, "--patience-s", "3"]
        return subprocess.run(
            [*command, "--target", str(target)],
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    python = str(ROOT / ".venv-s3/bin/python")
    if not Path(python).exists():
        pytest.skip(".venv-s3 does not exist: make test-stack creates it")
    process = subprocess.Popen(
        [python, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    lines = (re.search(r"Running on (http://127\.0\.0\.1:\d+)", line) for line in process.stdout)
    address = next(found[1] for found in lines if found)
    yield Store(
        python,
        {
            **os.environ,
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        },
    )
    process.terminate()
    process.stdout.close()
    process.wait()


def test_from_s3(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "model"
    source.mkdir()
    content = os.urandom(100_000)
    (source / "model.tflite").write_bytes(content)
    files = {"model.tflite": hashlib.sha256(content).hexdigest()}
    (source / "model.json").write_text(json.dumps({"files": files}))
    subprocess.run([store.python, "-c", PUT, f"{source}/"], env=store.environ, check=True)
    done = store.download("s3://bucket/models/1", tmp_path / "to")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "to" / "1" / "model.tflite").read_bytes() == content

    done = store.download("s3://bucket/none", tmp_path / "to")
    assert done.returncode == 1
    assert "s3://bucket/none/model.json does not exist" in done.stderr
    assert "Traceback" not in done.stderr
