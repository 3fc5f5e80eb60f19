"""`launch-locust-load-test`: Locust here, or in a cluster."""

import os
from pathlib import Path

import click

from deploy.commands.base import StackCommand, target_options
from deploy.errors import SettingInvalid as DeploySettingInvalid
from deploy.stack_target import StackTarget
from loadtest import cli
from loadtest.errors import SettingInvalid
from loadtest.options import given
from loadtest.settings import LoadTestSettings

# Options for several machines without a cluster, or for files of this machine.
_NOT_IN_CLUSTER = ("bind", "worker_of", "metrics_bind", "server_metrics", "web_port")


@click.command(
    "launch-locust-load-test",
    cls=StackCommand,
    add_help_option=False,
    context_settings={"ignore_unknown_options": True},
)
@target_options
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def launch(words: tuple[str, ...], target: StackTarget) -> int:
    """Load-test one protocol with Locust, on this machine or in a cluster."""
    if not target.in_cluster:
        cli.launch.main(list(words), prog_name="launch-locust-load-test")
    if os.environ.get("LOADTEST_WEB_PORT"):
        raise DeploySettingInvalid(
            "WEB_PORT (LOADTEST_WEB_PORT) is not supported in a cluster, which has no live page; "
            "unset it"
        )
    with (
        cli.launch.make_context("launch-locust-load-test", list(words)) as context,
        cli.in_one_sentence(),
    ):
        flags = context.params
        for name in _NOT_IN_CLUSTER:
            if flags.pop(name) is not None:
                raise SettingInvalid(
                    f"--{name.replace('_', '-')} is not supported in a cluster; remove it"
                )
        settings = LoadTestSettings.from_env(
            os.environ, client=flags.pop("client"), test_type=flags.pop("test_type"), **given(flags)
        )
        if settings.arrivals.startswith("trace:"):
            raise SettingInvalid(
                f"--arrivals is {settings.arrivals!r}, expected poisson or constant in a cluster, "
                "whose pods cannot read files of this machine"
            )
        if settings.reads_file:
            raise SettingInvalid(
                f"--payload is {settings.payload!r}, expected digits or random in a cluster, whose "
                "pods cannot read files of this machine"
            )
    if os.environ.get("LOADTEST_HOST"):
        words = ("--host", settings.host, *words)
    # Imported on use: the container image has no kubernetes package.
    from deploy.kubernetes import load_run
    from deploy.kubernetes.session import session

    with session(os.environ, target.context) as it:
        status, folder = load_run.run(it, settings, words)
    return cli.show(Path(folder)) or status
