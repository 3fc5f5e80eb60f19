"""Base classes of the commands: an error is one sentence on stderr and exit status 1."""

import functools
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import click

from deploy import stack_target
from deploy.errors import DeployError
from seldon_gateway.errors import GatewayError
from serving_core import ServingError

EXPECTED = (DeployError, GatewayError, ServingError)


class _OneSentence(click.Command):
    """Exits with status 1 on every error, as the original did, without a traceback.

    Click's own status of a usage error is 2.
    """

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> NoReturn:  # type: ignore[override]
        """Run, and exit with 0 or 1."""
        extra["standalone_mode"] = False
        if args is None:
            # So that SIGTERM runs the clean-up of what the command was starting.
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        words = list(sys.argv[1:] if args is None else args)
        try:
            status = super().main(words, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            sys.exit(1)
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else self.name
            _end(f"{' '.join(error.format_message().split())} (see {path} --help)", words)
        except click.ClickException as error:
            _end(error.format_message(), words)
        except (click.Abort, KeyboardInterrupt):
            _end("interrupted", words)
        except EXPECTED as error:
            _end(str(error), words)
        except OSError as error:
            _end(f"operating system error: {error}", words)
        sys.exit(status if isinstance(status, int) else 0)


def _end(sentence: str, words: list[str]) -> NoReturn:
    if "--debug" in words:
        traceback.print_exc()
    click.echo(f"error: {sentence}", err=True)
    sys.exit(1)


class StackCommand(_OneSentence, click.Command):
    """A command that reports errors in one sentence."""


class StackGroup(_OneSentence, click.Group):
    """A command group that reports errors in one sentence."""


class LazyStackGroup(StackGroup):
    """A group that imports subcommands on use, since some take a second to import.

    Source: Click's documentation, "Lazily loading subcommands".
    """

    def __init__(self, *words: Any, elsewhere: Mapping[str, str], **options: Any) -> None:
        """`elsewhere` maps names of commands to `module:attribute`."""
        super().__init__(*words, **options)
        self._elsewhere = elsewhere

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all."""
        return sorted({*super().list_commands(ctx), *self._elsewhere})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a subcommand."""
        if cmd_name not in self._elsewhere:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = self._elsewhere[cmd_name].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


def debug_option(command: Any) -> Any:
    """Accept --debug: show tracebacks. Read by StackCommand.main, before anything can fail."""
    return click.option(
        "--debug", is_flag=True, expose_value=False, help="Print the traceback of an error."
    )(command)


def target_options(command: Any) -> Any:
    """Accept --target and --context; the command gets them as `target`, a StackTarget."""

    @click.option(
        "--target",
        metavar="local|kubernetes",
        help="Where the stack runs.  [default: SELDON_TARGET, else local]",
    )
    @click.option(
        "--context", help="Context of the kubeconfig file.  [default: the current context]"
    )
    @functools.wraps(command)
    def chosen(*words: Any, target: str | None, context: str | None, **options: Any) -> Any:
        return command(*words, target=stack_target.choose(os.environ, target, context), **options)

    return chosen
