"""Exceptions of a download.

    DownloadFailed
    ├── SettingInvalid    an option is missing or invalid
    ├── SourceFailed      the source is unreachable or refuses
    ├── ModelInvalid      the files do not match model.json or --sha256
    └── TargetFailed      the model repository is not writable

Each message is one sentence with the next step, without the secrets of a URL. A failed download
leaves the installed version unchanged.
"""


class DownloadFailed(Exception):
    """The version was not installed; `str(error)` addresses the operator."""


class SettingInvalid(DownloadFailed):
    """An option or variable is missing or invalid; the message names it and the limit."""


class SourceFailed(DownloadFailed):
    """The source is unreachable or refuses.

    Attributes:
        transient: Whether a retry may succeed.
    """

    def __init__(self, message: str, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class ModelInvalid(DownloadFailed):
    """A checksum, model.json or an archive is invalid."""


class TargetFailed(DownloadFailed):
    """The model repository is not writable."""
