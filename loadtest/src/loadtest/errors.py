"""What can go wrong with a load test, as one sentence that says what to do next.

LoadTestError
├── SettingInvalid         a setting is outside its limits
├── CredentialsMissing     the client, its key or its secret is not known here
├── PreflightFailed        the first request, before any load, was not answered rightly
├── LoadGeneratorFailed    a Locust process died or did not finish
└── LoadTestInterrupted    stopped by hand; what was measured until then is kept
"""

from pathlib import Path


class LoadTestError(Exception):
    """`str(error)` is fit for the person who runs the load test."""


class SettingInvalid(LoadTestError):
    """Names the option and its limit."""


class CredentialsMissing(LoadTestError):
    """Set the client up, or give the key in the environment."""


class PreflightFailed(LoadTestError):
    """Nothing was measured: the target does not answer, or refuses."""


class LoadGeneratorFailed(LoadTestError):
    """The result, if any, is incomplete."""


class LoadTestInterrupted(LoadTestError):
    """The folder holds what was measured until then."""

    def __init__(self, folder: Path) -> None:
        super().__init__("stopped by hand; the result holds what was measured until then")
        self.folder = folder
