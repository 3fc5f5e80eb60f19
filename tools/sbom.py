"""Write software bills of materials (SBOM, CycloneDX 1.6 JSON) of .venv and of the images.

cyclonedx-py lists Python packages. For an image, this module adds the distribution's packages, the
Python interpreter and Envoy. The same packages result in the same bytes.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlencode

from deploy.errors import DeployError
from deploy.images import IMAGES, find_tool

ROOT = Path(__file__).parents[1]
PROJECT = "prediction-services"
ENVIRONMENT = "environment"
# cyclonedx-py has an environment of its own: what it brings makes `import jsonschema` take seconds.
CYCLONEDX = ROOT / ".venv-sbom" / "bin" / "python"

Component = dict[str, Any]
Document = dict[str, Any]

# What is read of an image: what its packages say about themselves, not the packages.
_DIST_INFO = re.compile(r"(?P<prefix>.*/)?site-packages/(?P<rest>[^/]+\.dist-info/.+)")
_FILES = ("var/lib/dpkg/status", "usr/lib/os-release", "app/pyvenv.cfg")
_ENVOY = "usr/local/bin/envoy"


class SbomFailed(Exception):
    """An SBOM cannot be written; the message says why."""


def of_environment(python: str, environ: dict[str, str], options: Sequence[str] = ()) -> Document:
    """What cyclonedx-py finds in the environment of an interpreter."""
    if not CYCLONEDX.exists():
        raise SbomFailed(f"{CYCLONEDX} does not exist; run make .venv-sbom/.ready")
    done = subprocess.run(
        [
            *(str(CYCLONEDX), "-m", "cyclonedx_py", "environment", "--output-reproducible"),
            *("--spec-version", "1.6", "--no-validate", *options, python),
        ],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SbomFailed(f"cyclonedx-py failed: {done.stderr.strip()}")
    document: Document = json.loads(done.stdout)
    for component in document.get("components", []):
        # Where a package of ours was installed from, on whichever machine that was.
        elsewhere = [
            reference
            for reference in component.pop("externalReferences", [])
            if not reference["url"].startswith("file:")
        ]
        if elsewhere:
            component["externalReferences"] = elsewhere
    return document


def of_image(tool: str, reference: str) -> Document:
    """What is in an image.

    Raises:
        SbomFailed: There is no such image, or the tool cannot read it.
    """
    with tempfile.TemporaryDirectory(prefix="sbom-") as folder:
        found = read_image(tool, reference, Path(folder))
        # -S: without the packages of this interpreter.
        document = of_environment(sys.executable, {**os.environ, "PYTHONPATH": folder}, ["-S"])
    components = [
        *document.get("components", []),
        *distribution_packages(found.get(_FILES[0], ""), found.get(_FILES[1], "")),
        *interpreter(found.get(_FILES[2], "")),
    ]
    if _ENVOY in found:
        components.append(envoy(tool, reference))
    document["components"] = sorted(components, key=lambda one: str(one["bom-ref"]))
    return named(document, reference.rpartition("/")[2].partition(":")[0], "container")


def named(document: Document, name: str, kind: str) -> Document:
    """The document with its subject in the metadata."""
    full, released = f"{PROJECT}/{name}", metadata.version("prediction-services-deploy")
    subject = {"bom-ref": full, "type": kind, "name": full, "version": released}
    document.setdefault("metadata", {})["component"] = subject
    return document


def read_image(tool: str, reference: str, folder: Path) -> dict[str, str]:
    """Copy packages' metadata to a folder; return the text of the other files by path."""
    container = _run(tool, "create", reference)
    found: dict[str, str] = {}
    try:
        with subprocess.Popen([tool, "export", container], stdout=subprocess.PIPE) as export:
            assert export.stdout is not None  # noqa: S101  # it is a pipe
            with tarfile.open(fileobj=export.stdout, mode="r|") as archive:
                for member in archive:
                    path = member.name.removeprefix("./")
                    match = _DIST_INFO.fullmatch(path)
                    if path == _ENVOY:
                        found[path] = ""
                    if not member.isfile() or not (match or path in _FILES):
                        continue
                    content = archive.extractfile(member)
                    assert content is not None  # noqa: S101  # it is a file
                    if match is None:
                        found[path] = content.read().decode()
                    elif ".." not in PurePosixPath(path).parts:
                        target = folder / match["rest"]
                        target.parent.mkdir(parents=True, exist_ok=True)
                        target.write_bytes(content.read())
        if export.returncode:
            raise SbomFailed(f"{tool} export of {reference} failed; see its output above")
    except tarfile.TarError as error:
        raise SbomFailed(f"{tool} export of {reference} is incomplete: {error}") from error
    finally:
        _run(tool, "rm", container)
    return found


def distribution_packages(status: str, release: str) -> Iterator[Component]:
    """The packages that dpkg lists as installed."""
    system = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', release, re.MULTILINE))
    for paragraph in status.split("\n\n"):
        field = dict(re.findall(r"^([\w-]+): (.*)$", paragraph, re.MULTILINE))
        if field.get("Status") != "install ok installed":
            continue
        qualifiers = {"arch": field["Architecture"]}
        if codename := system.get("VERSION_CODENAME"):
            qualifiers["distro"] = codename
        place = f"deb/{system.get('ID', 'debian')}"
        yield _component(place, field["Package"], field["Version"], qualifiers)


def interpreter(configuration: str) -> Iterator[Component]:
    """Python itself, by the pyvenv.cfg of the image's environment."""
    if match := re.search(r"^version = (.+)$", configuration, re.MULTILINE):
        yield _component("generic", "cpython", match[1], kind="application")


def envoy(tool: str, reference: str) -> Component:
    """Envoy, which no package manager has installed, by its own word."""
    printed = _run(
        tool, "run", "--rm", "--network=none", "--entrypoint=envoy", reference, "--version"
    )
    match = re.search(r"version: \w+/([\w.-]+)/", printed)
    if match is None:
        raise SbomFailed(f"{reference}: `envoy --version` printed {printed!r}, expected a version")
    return _component("github/envoyproxy", "envoy", match[1], kind="application")


def _component(
    place: str,
    name: str,
    version: str,
    qualifiers: Mapping[str, str] | None = None,
    kind: str = "library",
) -> Component:
    """A component with its package URL."""
    url = f"pkg:{place}/{quote(name)}@{quote(version, safe=':')}"
    if qualifiers:
        url += f"?{urlencode(qualifiers)}"
    return {"bom-ref": url, "type": kind, "name": name, "version": version, "purl": url}


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SbomFailed(f"{' '.join(command[:2])} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def write(document: Document, folder: Path, name: str) -> Path:
    """Write one SBOM, as NAME.cdx.json."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.cdx.json"
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the SBOM of this environment and, if asked, of each image; print the files' names."""
    parser = argparse.ArgumentParser(description="Write SBOMs, CycloneDX 1.6 in JSON.")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "sbom", metavar="FOLDER")
    parser.add_argument("--images", action="store_true", help="also of each image, built before")
    parser.add_argument("--registry", default="localhost")
    parser.add_argument("--tag", default=metadata.version("prediction-services-deploy"))
    parser.add_argument("--tool", choices=("docker", "podman"))
    given = parser.parse_args(arguments)
    try:
        document = named(of_environment(sys.executable, {**os.environ}), ENVIRONMENT, "application")
        print(write(document, given.output, ENVIRONMENT))  # noqa: T201
        if given.images:
            tool = given.tool or find_tool()
            if tool == "buildah":
                raise SbomFailed("the tool is buildah, expected docker or podman; install one")
            for image in IMAGES:
                reference = f"{given.registry}/{PROJECT}/{image.name}:{given.tag}"
                print(write(of_image(tool, reference), given.output, image.name))  # noqa: T201
    except (SbomFailed, DeployError) as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
