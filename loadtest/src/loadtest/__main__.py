"""`python -m loadtest`: run, compare and report load tests."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import click

from loadtest import capacity_report, comparison, credentials, gate, gate_folders, summary, tables
from loadtest.benchmark import BLOCKS, benchmark
from loadtest.calibration import CALIBRATION, SECONDS, calibrate
from loadtest.capacity import MAX_PROBES
from loadtest.capacity_run import START_RATE, measure_capacities
from loadtest.cli import in_one_sentence, show, show_capacities
from loadtest.errors import SettingInvalid
from loadtest.matrix import BLOCKS as MATRIX_BLOCKS
from loadtest.matrix import VARIANTS, matrix
from loadtest.options import given, load_options
from loadtest.run_folder import read_json
from loadtest.runner import run_load_test
from loadtest.settings import TEST_TYPES, LoadTestSettings
from loadtest.slo import Slo

# Defaults of a capacity probe.
PROBES = {"LOADTEST_DURATION": "15", "LOADTEST_WARMUP": "2"}

# Defaults of a request variant.
MATRIX = {"LOADTEST_DURATION": "30"}

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def main() -> None:
    """Load-test a deployed stack over REST and gRPC, compare results and write reports."""


@main.command("benchmark")
@click.option(
    "--client",
    "--seldon-client",
    "client",
    required=True,
    help="Client whose keys and servers are used.",
)
@click.option(
    "--blocks",
    type=int,
    default=BLOCKS,
    show_default=True,
    help="Interleaved blocks per protocol, even; they share --duration.",
)
@load_options()
def run_benchmark(client: str, blocks: int, **flags: Any) -> None:
    """Compare REST and gRPC on a running stack, interleaved."""
    with in_one_sentence():
        sys.exit(show(benchmark(client, given(flags), blocks=blocks)))


@main.command("matrix")
@click.option(
    "--client",
    "--seldon-client",
    "client",
    required=True,
    help="Client whose keys and servers are used.",
)
@click.option(
    "--ways",
    default=",".join(VARIANTS),
    show_default=True,
    help="Request variants, comma-separated; the first is the baseline.",
)
@click.option(
    "--blocks",
    type=int,
    default=MATRIX_BLOCKS,
    show_default=True,
    help="Interleaved blocks per variant, even; they share --duration.",
)
@load_options(MATRIX)
def run_matrix(client: str, ways: str, blocks: int, **flags: Any) -> None:
    """Compare request variants on a running stack, interleaved.

    Each variant measures for 30 s, unless --duration says otherwise.
    """
    with in_one_sentence():
        keys = [key.strip() for key in ways.split(",") if key.strip()]
        environ = {**MATRIX, **os.environ}
        sys.exit(show(matrix(client, keys, given(flags), environ, blocks=blocks)))


@main.command("capacity")
@click.option(
    "--client",
    "--seldon-client",
    "client",
    required=True,
    help="Client whose keys and servers are used.",
)
@click.option(
    "--test-type",
    "test_types",
    multiple=True,
    type=click.Choice(list(TEST_TYPES)),
    default=list(TEST_TYPES),
    help="Protocol to test; repeatable.",
)
@click.option("--slo", required=True, help="SLO, such as 'p99<20ms' or 'p50<5ms,failures<0.1%'.")
@click.option(
    "--start-rate",
    type=float,
    default=START_RATE,
    show_default=True,
    help="Arrival rate of the first probe, requests per second.",
)
@click.option(
    "--probes",
    type=int,
    default=MAX_PROBES,
    show_default=True,
    help="Maximum number of probes (load tests) per protocol.",
)
@load_options(PROBES)
def run_capacity(
    client: str,
    test_types: tuple[str, ...],
    slo: str,
    start_rate: float,
    probes: int,
    **flags: Any,
) -> None:
    """Find the highest arrival rate that meets an SLO.

    Each probe measures for 15 s after a warm-up of 2 s, unless --duration and --warmup say
    otherwise.
    """
    with in_one_sentence():
        objective = Slo.parse(slo)
        if flags["rate"] is not None:
            raise SettingInvalid("--rate is set, expected none; use --start-rate")
        options = {**given(flags), "rate": start_rate}
        wanted = [
            LoadTestSettings.from_env(
                {**PROBES, **os.environ}, client=client, test_type=test_type, **options
            )
            for test_type in dict.fromkeys(test_types)
        ]
        folder = measure_capacities(
            wanted,
            lambda settings: credentials.load(client, settings.scopes),
            objective,
            run_load_test,
            start_rate=start_rate,
            max_probes=probes,
            notify=lambda text: click.echo(text, err=True),
        )
        sys.exit(show_capacities(folder))


@main.command("calibrate")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Parent folder of the result folder.",
)
@click.option(
    "--seconds",
    type=float,
    default=SECONDS,
    show_default=True,
    help="Duration of each arrival rate, seconds.",
)
def run_calibration(output: Path, seconds: float) -> None:
    """Measure the overhead of the load test itself.

    The load goes to a server that responds immediately.
    """
    with in_one_sentence():
        folder = calibrate(
            output, run_load_test, seconds=seconds, notify=lambda text: click.echo(text, err=True)
        )
        tables.print_calibration(read_json(folder / CALIBRATION))
        click.echo(f"\nResult: {folder / CALIBRATION}")


@main.command()
@click.argument("folders", metavar="A B", type=FOLDER, nargs=-1, required=True)
@click.option("--names", help="Names of the runs, comma-separated, such as before,after.")
@click.option(
    "--allow-differences",
    is_flag=True,
    help="Compare runs with unequal settings; the report lists them.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Parent folder of the result folder.",
)
def compare(
    folders: tuple[Path, ...], names: str | None, allow_differences: bool, output: Path
) -> None:
    """Compare runs with the first.

    Each folder holds the result of one load test.
    """
    with in_one_sentence():
        if len(folders) < 2:
            raise SettingInvalid("the number of folders is 1, expected 2 or more; add another run")
        called = [name.strip() for name in (names or "").split(",") if name.strip()]
        runs = comparison.sources([folder.resolve() for folder in folders], called)
        compared = comparison.compare(runs, output, allow_differences=allow_differences)
        sys.exit(show(compared))


@main.command("gate")
@click.argument("before", type=FOLDER)
@click.argument("after", type=FOLDER)
@click.option("--max-regression", required=True, help="Allowed latency increase, such as 10%.")
@click.option("--strict", is_flag=True, help="Also fail on inconclusive statistics.")
@click.option("--allow-differences", is_flag=True, help="Judge runs with unequal settings.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def run_gate(
    before: Path,
    after: Path,
    max_regression: str,
    strict: bool,
    allow_differences: bool,
    as_json: bool,
) -> None:
    """Fail on a latency regression.

    Exit status 1: a statistic of AFTER exceeds that of BEFORE by more than the limit.
    """
    with in_one_sentence():
        limit = gate.max_ratio(max_regression)
        found = gate_folders.judge(
            before.resolve(), after.resolve(), limit, allow_differences=allow_differences
        )
        passes = found.passes(strict=strict)
        if as_json:
            click.echo(json.dumps({"passes": passes, **found.document()}, indent=2))
        else:
            tables.print_gate(found, passes)
        sys.exit(0 if passes else 1)


@main.command()
@click.argument("folder", type=FOLDER)
def report(folder: Path) -> None:
    """Rebuild the report of a result folder."""
    folder = folder.resolve()  # `latest` is a symbolic link
    with in_one_sentence():
        if capacity_report.is_capacity(folder):
            capacity_report.write(folder)
            sys.exit(show_capacities(folder))
        if comparison.is_comparison(folder):
            comparison.write_report(folder)
        else:
            summary.write_report(folder)
        sys.exit(show(folder))


if __name__ == "__main__":
    main()
