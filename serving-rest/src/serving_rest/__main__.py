"""`python -m serving_rest`: check the configuration, then run gunicorn in this process."""

import logging
import os
import sys
import tempfile
from pathlib import Path

from serving_core import ModelFolderInvalid, read_model_folder
from serving_rest.listener import CannotListen, listen
from serving_rest.server import Server
from serving_rest.settings import SettingInvalid, Settings


def main() -> None:
    """Serve until SIGTERM; exit with status 1 and one sentence if the server cannot start."""
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s [%(process)d] [%(levelname)s] %(message)s"
    )
    try:
        settings = Settings.from_env(os.environ)
        # Checked here, so that an invalid folder ends the start, not one worker after another.
        read_model_folder(settings.model_folder, settings.model_engine, settings.model_name)
        listener = listen(settings.host, settings.port)
        metrics_dir = _empty_metrics_dir(settings.metrics_dir)
    except (SettingInvalid, ModelFolderInvalid, CannotListen) as error:
        sys.exit(f"serving-rest: {error}")

    master = os.getpid()
    try:
        Server(settings, listener, metrics_dir).run()
    except SystemExit as end:
        # The master interprets a worker's exit status; its own is 0 or 1.
        if os.getpid() != master or not end.code:
            raise
        sys.exit(1)


def _empty_metrics_dir(folder: Path | None) -> Path:
    """Create the metrics directory, or remove the files of an earlier run from it.

    Raises:
        SettingInvalid: It cannot be created or written.
    """
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="serving-rest-"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.glob("*.db"):
            file.unlink()
    except OSError as error:
        raise SettingInvalid(f"REST_METRICS_DIR is {str(folder)!r}: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise SettingInvalid(f"REST_METRICS_DIR is {str(folder)!r}: not writable")
    return folder


if __name__ == "__main__":
    main()
