"""A Kubernetes control plane without nodes, for tests: etcd, API server, controller manager.

`python tests/cluster/control_plane.py` starts one and says its KUBECONFIG; Ctrl-C ends it.
"""

import secrets
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Self

import yaml

from ports import free_ports

PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager")
_START_S = 90.0
_END_S = 20.0


def missing_programs() -> list[str]:
    """Those of `PROGRAMS` that are not on PATH."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class ControlPlane:
    """Runs between `with` and its end; a Deployment makes Pods, which no node takes."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="control-plane-"))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._port = free_ports(1)[0]
        self._token = secrets.token_hex(16)
        self.kubeconfig = self._folder / "kubeconfig"

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes.values()):
            process.terminate()
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._folder)

    def _start(self) -> None:
        etcd, peer = (f"http://127.0.0.1:{free_ports(1)[0]}" for _ in range(2))
        key = self._folder / "service-account.key"
        _run("openssl", "genrsa", "-out", str(key), "2048")
        tokens = self._folder / "tokens.csv"
        tokens.touch(mode=0o600)
        tokens.write_text(f"{self._token},admin,admin,system:masters\n")
        self._spawn(
            "etcd",
            f"--data-dir={self._folder / 'etcd'}",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            "--unsafe-no-fsync",
        )
        self._spawn(
            "kube-apiserver",
            f"--etcd-servers={etcd}",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={self._port}",
            f"--cert-dir={self._folder}",  # where it puts a certificate of its own making
            f"--token-auth-file={tokens}",
            "--authorization-mode=RBAC",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.0.0.0/24",
        )
        self._wait_for_api()
        self._write_kubeconfig()
        self._spawn(
            "kube-controller-manager",
            f"--kubeconfig={self.kubeconfig}",
            f"--service-account-private-key-file={key}",
            f"--root-ca-file={self._folder / 'apiserver.crt'}",
            "--leader-elect=false",
            "--secure-port=0",
        )

    def _spawn(self, program: str, *options: str) -> None:
        with (self._folder / f"{program}.log").open("wb") as log:
            process = subprocess.Popen(
                [program, *options], stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._processes[program] = process

    def _wait_for_api(self) -> None:
        certificate = self._folder / "apiserver.crt"
        deadline = time.monotonic() + _START_S
        while True:
            for program, process in self._processes.items():
                if process.poll() is not None:
                    raise RuntimeError(self._last_words(program))
            if certificate.is_file() and self._answers(certificate):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(self._last_words("kube-apiserver"))
            time.sleep(0.2)

    def _answers(self, certificate: Path) -> bool:
        request = urllib.request.Request(
            f"https://127.0.0.1:{self._port}/readyz",
            headers={"Authorization": f"Bearer {self._token}"},
        )
        try:
            trust = ssl.create_default_context(cafile=str(certificate))
            handler = urllib.request.HTTPSHandler(context=trust)
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), handler)
            with opener.open(request, timeout=5) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False

    def _last_words(self, program: str) -> str:
        lines = (self._folder / f"{program}.log").read_text().splitlines()
        return f"{program} did not start: {' / '.join(lines[-5:])}"

    def _write_kubeconfig(self) -> None:
        self.kubeconfig.touch(mode=0o600)
        cluster = {
            "server": f"https://127.0.0.1:{self._port}",
            "certificate-authority": str(self._folder / "apiserver.crt"),
        }
        context = {"cluster": "control-plane", "user": "admin"}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "control-plane", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": self._token}}],
            "contexts": [{"name": "control-plane", "context": context}],
            "current-context": "control-plane",
        }
        self.kubeconfig.write_text(yaml.safe_dump(config))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    """Run one until it is told to end."""
    if missing := missing_programs():
        sys.exit(f"not on PATH: {', '.join(missing)} (see tests/cluster/README.md)")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with ControlPlane() as control_plane:
        sys.stdout.write(f"export KUBECONFIG={control_plane.kubeconfig} CLUSTER_WITHOUT_NODES=1\n")
        sys.stdout.flush()
        with suppress(KeyboardInterrupt):
            signal.pause()


if __name__ == "__main__":
    main()
