"""Errors of a load test. Each message is one sentence with the next step.

LoadTestError
├── SettingInvalid         a setting is out of range
├── CredentialsMissing     the client, its key or its secret is unknown on this machine
├── PreflightFailed        the preflight request failed
├── LoadGeneratorFailed    a Locust process exited early or timed out
├── LoadTestInterrupted    SIGINT or SIGTERM; partial results are kept
├── RunsUnlike             the runs to compare have unequal settings (comparison.py)
└── ResultUnreadable       a result folder is incomplete (run_folder.py)
"""

from pathlib import Path


class LoadTestError(Exception):
    """Base class; `str(error)` is the message for the user."""


class SettingInvalid(LoadTestError):
    """A setting is out of range; the message names the option."""


class CredentialsMissing(LoadTestError):
    """A key or secret is missing."""


class PreflightFailed(LoadTestError):
    """The preflight request failed; nothing was measured."""


class LoadGeneratorFailed(LoadTestError):
    """A Locust process failed; the result, if any, is incomplete."""


class LoadTestInterrupted(LoadTestError):
    """The run was interrupted; `folder` holds its partial result."""

    def __init__(self, folder: Path) -> None:
        super().__init__("interrupted; the result is partial")
        self.folder = folder
