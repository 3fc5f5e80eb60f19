"""Commands of the original's `seldon-cli` that do nothing here."""

from collections.abc import Iterator

import click

from deploy.errors import SettingInvalid


def unneeded_commands() -> Iterator[click.Command]:
    """Commands that print one sentence."""
    yield _answering("memcached", "no memcached is needed: nothing to set up", works=True)
    yield _answering(
        "rpc",
        "custom request classes are not supported; send a DefaultCustomPredictRequest",
        works=False,
    )
    for name in ("attr", "import", "rec_alg", "rec_exp"):
        yield _answering(
            name,
            f"{name} is not supported: this product has no recommendations",
            works=False,
        )


def _answering(name: str, sentence: str, *, works: bool) -> click.Command:
    @click.command(
        name, hidden=True, context_settings={"ignore_unknown_options": True}, help=sentence
    )
    @click.argument("words", nargs=-1, type=click.UNPROCESSED)
    def command(words: tuple[str, ...]) -> None:
        if not works:
            raise SettingInvalid(sentence)
        click.echo(sentence)

    return command
