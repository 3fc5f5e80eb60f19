"""The command `download-model`."""

import sys
from pathlib import Path

import click

from model_download.errors import DownloadFailed
from model_download.install import install
from model_download.progress import Progress
from model_download.settings import MAX_BYTES, Settings


@click.command("download-model")
@click.option("--source", envvar="MODEL_SOURCE", required=True, help="Path or URL; MODEL_SOURCE.")
@click.option(
    "--target",
    envvar="MODEL_TARGET",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="The model's folder in the repository; MODEL_TARGET.",
)
@click.option("--version", envvar="MODEL_VERSION", default="1", show_default=True)
@click.option("--sha256", envvar="MODEL_SHA256", help="Checksum of the archive, or of model.json.")
@click.option("--max-bytes", envvar="MODEL_MAX_BYTES", default=MAX_BYTES, show_default=True)
@click.option("--patience-s", envvar="MODEL_PATIENCE_S", default=60.0, show_default=True)
def main(
    source: str, target: Path, version: str, sha256: str | None, max_bytes: int, patience_s: float
) -> None:
    """Download a model version into TARGET/VERSION, atomically; a repeated run is safe.

    SOURCE is a folder with model.json or a .tar.gz, .tgz or .zip of a model folder: a path, file:,
    http:, https:, s3: or gs:.
    """
    progress = Progress()
    try:
        settings = Settings(source, target, version, sha256 or None, max_bytes, patience_s)
        changed = install(settings, progress)
    except DownloadFailed as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("error: interrupted; the next run resumes the download", err=True)
        sys.exit(130)
    click.echo(f"{target / version} {'is installed' if changed else 'is there already'}")


if __name__ == "__main__":
    main()
