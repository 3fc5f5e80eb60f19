"""Check that `make setup` needs no compiler: each package it installs has a wheel.

pip resolves requirements.txt with constraints.txt for each supported Python, without installing.
It evaluates environment markers (`; python_version < "3.12"`) for the Python that runs it.
"""

import argparse
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
# Debian 12, the oldest system that we test on, has glibc 2.36.
GLIBC_MINORS = range(5, 37)
OLDER_TAGS = ("manylinux1", "manylinux2010", "manylinux2014")
# make setup needs a C compiler for these.
WITHOUT_WHEEL = {"x86_64": (), "aarch64": ("hdrhistogram",)}

_EDITABLE = re.compile(r"-e \./(?P<folder>[\w-]+)(\[(?P<extras>[\w,-]+)\])?")
_OURS = "prediction-services-"


def requirements(root: Path) -> list[str]:
    """What requirements.txt asks for beyond our own packages, build backends included."""
    return sorted(set(_requirements(root)))


def _requirements(root: Path) -> Iterator[str]:
    for line in (root / "requirements.txt").read_text().splitlines():
        if line.startswith(("#", "-c ")):
            continue
        editable = _EDITABLE.fullmatch(line)
        if editable is None:
            yield line
            continue
        document = tomllib.loads((root / editable["folder"] / "pyproject.toml").read_text())
        yield from document["build-system"]["requires"]
        project = document["project"]
        wanted = list(project.get("dependencies", ()))
        for extra in filter(None, (editable["extras"] or "").split(",")):
            wanted += project["optional-dependencies"][extra]
        yield from (name for name in wanted if not name.startswith(_OURS))


def resolve(
    wanted: Sequence[str], constraints: Path, python: str, architecture: str
) -> tuple[list[str], str]:
    """The wheels that pip would install, and what it reports if one is missing."""
    tags = (*(f"manylinux_2_{minor}" for minor in GLIBC_MINORS), *OLDER_TAGS)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--dry-run", "--ignore-installed", "--report", "-", "--target", "unused"),
            *("--only-binary", ":all:", "--implementation", "cp", "--python-version", python),
            *(f"--platform={tag}_{architecture}" for tag in tags),
            *("--constraint", str(constraints), *wanted),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        return [], done.stderr
    found = (entry["download_info"]["url"] for entry in json.loads(done.stdout)["install"])
    return sorted(url.rpartition("/")[2] for url in found), ""


def main(arguments: Sequence[str] | None = None, root: Path = ROOT) -> int:
    """Check each Python; the exit status is 1 if a wheel is missing for one."""
    parser = argparse.ArgumentParser(description="Check that make setup needs no compiler.")
    parser.add_argument("--architecture", choices=WITHOUT_WHEEL, default="x86_64")
    parser.add_argument("--python", action="append", choices=PYTHONS, help="default: each")
    given = parser.parse_args(arguments)
    left_out = WITHOUT_WHEEL[given.architecture]
    names = [
        one for one in requirements(root) if re.split(r"[^\w-]", one, maxsplit=1)[0] not in left_out
    ]
    failed = False
    for python in given.python or PYTHONS:
        wheels, report = resolve(names, root / "constraints.txt", python, given.architecture)
        failed = failed or bool(report) or not wheels
        text = f"{len(wheels)} packages have wheels" if wheels else f"FAILED\n{report}"
        more = f"; without: {', '.join(left_out)}" if left_out else ""
        print(f"Python {python}, Linux {given.architecture}: {text}{more}", flush=True)  # noqa: T201
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
