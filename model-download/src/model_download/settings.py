"""Settings of a download."""

import re
from dataclasses import dataclass
from pathlib import Path

from model_download.errors import SettingInvalid
from model_download.sources import PROTOCOLS, protocol_of, shown

MAX_BYTES = 20 << 30

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Settings:
    """Source, destination and limits of a download.

    Attributes:
        source: MODEL_SOURCE, a folder with model.json, or a .tar.gz, .tgz or .zip of a model
            folder: a path or a URL of PROTOCOLS.
        target: MODEL_TARGET, the model's folder in the repository; versions are its subfolders.
        version: MODEL_VERSION, the subfolder's name.
        sha256: MODEL_SHA256, of the archive or of model.json; None trusts the source. An archive
            without model.json needs it.
        max_bytes: MODEL_MAX_BYTES, maximum size of the download, and of the unpacked files.
        patience_s: MODEL_PATIENCE_S, how long to retry without receiving new bytes.
    """

    source: str
    target: Path
    version: str
    sha256: str | None = None
    max_bytes: int = MAX_BYTES
    patience_s: float = 60.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            SettingInvalid: Names the option, its value and what was expected.
        """
        if not self.source or protocol_of(self.source) not in PROTOCOLS:
            raise SettingInvalid(
                f"--source is {shown(self.source)!r}, expected a path or a URL that begins with "
                f"{', '.join(f'{protocol}:' for protocol in PROTOCOLS)}"
            )
        if not _VERSION.fullmatch(self.version):
            raise SettingInvalid(
                f"--version is {self.version!r}, expected 1 to 64 letters, digits, '.', '_', '-', "
                "the first a letter or digit"
            )
        if self.sha256 is not None and not _SHA256.fullmatch(self.sha256):
            raise SettingInvalid(
                f"--sha256 is {self.sha256!r}, expected 64 hexadecimal digits as sha256sum "
                "prints them"
            )
