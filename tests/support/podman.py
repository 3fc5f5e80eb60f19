"""podman with a storage of its own: what a test makes there is gone with one folder."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

# podman asks for more files and processes than it may have where its own limits are lower.
_MOST = 10_000

BASE_PACKAGES = ("python3", "python3-venv", "ca-certificates")
BUILD_PACKAGES = ("gcc", "libc6-dev", "python3-dev")
# As in slim images.
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/locale/*", "/usr/share/man/*")


_HELPERS = ("/usr/local/libexec/podman", "/usr/libexec/podman", "/usr/lib/podman")


def missing_packages() -> list[str]:
    """What podman and a registry-less build need and this machine lacks, as Debian names it."""
    programs = ("podman", "mmdebstrap", "iptables")
    # podman merely recommends them; names need them, and they iptables, which they do not ask for
    helpers = ("netavark", "aardvark-dns")
    return [
        *(name for name in programs if shutil.which(name) is None),
        *(name for name in helpers if not any((Path(f) / name).exists() for f in _HELPERS)),
    ]


class Podman:
    """Images, networks, volumes and containers under one folder."""

    def __init__(self, home: Path) -> None:
        self.home = home
        storage = home / "storage.conf"
        storage.write_text(
            "[storage]\n"
            'driver = "overlay"\n'
            f'graphroot = "{home}/graph"\n'
            f'rootless_storage_path = "{home}/graph"\n'
            f'runroot = "{home}/run"\n'
        )
        (home / "tmp").mkdir()
        self.environ = {
            **os.environ,
            "CONTAINERS_STORAGE_CONF": str(storage),
            "CONTAINERS_CONF": str(home / "containers.conf"),
            "TMPDIR": str(home / "tmp"),  # caches of builds too
        }
        self.ulimits = [
            f"--ulimit={name}={most}:{most}"
            for name, number in (
                ("nofile", resource.RLIMIT_NOFILE),
                ("nproc", resource.RLIMIT_NPROC),
            )
            for hard in [resource.getrlimit(number)[1]]
            for most in [_MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)]
        ]
        limits = ", ".join(f'"{one.removeprefix("--ulimit=")}"' for one in self.ulimits)
        # The network is the one that gives containers names, whatever else this machine has, and
        # has addresses of its own: another's bridge may be left with podman's usual ones.
        (home / "containers.conf").write_text(
            f"[containers]\ndefault_ulimits = [{limits}]\n"
            '[engine]\nruntime = "runc"\n'
            '[network]\nnetwork_backend = "netavark"\ndefault_subnet = "10.214.0.0/16"\n'
        )

    def __call__(
        self, *words: str, text: str | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run `podman words`, with `text` as its input."""
        command = ["podman", *words]
        done = subprocess.run(
            command, env=self.environ, input=text, capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, f"podman {' '.join(words)}:\n{done.stderr}"
        return done

    def inspect(self, name: str) -> dict[str, Any]:
        """What podman knows of an image or a container."""
        return dict(json.loads(self("inspect", name).stdout)[0])

    def run(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """`podman run`, as strictly as the images allow."""
        return self(
            "run", *self.ulimits, "--read-only", "--read-only-tmpfs=false", "--tmpfs=/tmp",
            "--cap-drop=all", "--security-opt=no-new-privileges", *words, **options,
        )  # fmt: skip

    def debootstrap(self, name: str, *packages: str, suite: str = "bookworm") -> None:
        """Make an image of Debian from its packages, without any registry."""
        archive = self.home / "tmp" / "debian.tar"
        command = [
            *("mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}"),
            *(f"--dpkgopt=path-exclude={path}" for path in _LEFT_OUT),
            *(suite, str(archive)),
        ]
        done = subprocess.run(
            command, env=self.environ, stderr=subprocess.PIPE, text=True, check=False
        )
        assert done.returncode == 0, f"mmdebstrap:\n{done.stderr}"
        self("import", str(archive), name)
        archive.unlink()

    def build(self, *options: str, tool: str = "podman", **environ: str) -> list[str]:
        """`make images`, without make; returns the images' names."""
        done = subprocess.run(
            [sys.executable, "-m", "deploy", "images", "--tool", tool, *options],
            env=self.environ | environ,
            cwd=Path(__file__).parents[2],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout.split()

    def close(self) -> None:
        """Remove everything."""
        self("rm", "--all", "--force", "--time=0", check=False)
        self("rmi", "--all", "--force", check=False)
        self("volume", "rm", "--all", "--force", check=False)
        shutil.rmtree(self.home)
