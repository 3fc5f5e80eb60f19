"""The one tree of errors that a download can end in.

    DownloadFailed
    ├── SettingInvalid    an option is missing or wrong
    ├── SourceFailed      the source does not give what was asked for
    ├── ModelInvalid      what it gave is not what model.json or --sha256 says
    └── TargetFailed      it cannot be written here

Each message is one sentence with the next step, and has no secret of a URL in it. After any of
them the version that was there before is there still.
"""


class DownloadFailed(Exception):
    """The version was not installed; `str(error)` is for the operator."""


class SettingInvalid(DownloadFailed):
    """An option or variable is missing or wrong; the message names it and the limit."""


class SourceFailed(DownloadFailed):
    """The source cannot be reached, or refuses.

    Attributes:
        transient: Whether the same request may succeed soon.
    """

    def __init__(self, message: str, transient: bool = False) -> None:
        super().__init__(message)
        self.transient = transient


class ModelInvalid(DownloadFailed):
    """A checksum, model.json or an archive is wrong."""


class TargetFailed(DownloadFailed):
    """The model repository cannot be written."""
