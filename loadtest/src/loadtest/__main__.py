"""`python -m loadtest`: benchmark, capacity, calibrate; compare, gate, report from folders."""

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
from loadtest.matrix import WAYS, matrix
from loadtest.options import given, load_options
from loadtest.run_folder import read_json
from loadtest.runner import run_load_test
from loadtest.settings import TEST_TYPES, LoadTestSettings
from loadtest.slo import Slo

# Of one probe, unless the user says otherwise.
PROBES = {"LOADTEST_DURATION": "15", "LOADTEST_WARMUP": "2"}

# Of each way.
MATRIX = {"LOADTEST_DURATION": "30"}

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


@click.group()
def main() -> None:
    """Load tests of REST and gRPC, compared and reported."""


@main.command("benchmark")
@click.option(
    "--client", "--seldon-client", "client", required=True, help="Whose keys and servers to use."
)
@click.option(
    "--blocks",
    type=int,
    default=BLOCKS,
    show_default=True,
    help="Turns of each protocol; --duration is measured over all of them.",
)
@load_options
def run_benchmark(client: str, blocks: int, **flags: Any) -> None:
    """Load-test both protocols on a running stack, in turns, and compare."""
    with in_one_sentence():
        sys.exit(show(benchmark(client, given(flags), blocks=blocks)))


@main.command("matrix")
@click.option(
    "--client", "--seldon-client", "client", required=True, help="Whose keys and servers to use."
)
@click.option(
    "--ways",
    default=",".join(WAYS),
    show_default=True,
    help="Ways to ask; each is compared with the first.",
)
@click.option(
    "--blocks", type=int, default=MATRIX_BLOCKS, show_default=True, help="Turns of each way."
)
@load_options
def run_matrix(client: str, ways: str, blocks: int, **flags: Any) -> None:
    """Load-test a running stack in several ways, in turns: what people argue about."""
    with in_one_sentence():
        keys = [key.strip() for key in ways.split(",") if key.strip()]
        environ = {**MATRIX, **os.environ}
        sys.exit(show(matrix(client, keys, given(flags), environ, blocks=blocks)))


@main.command("capacity")
@click.option(
    "--client", "--seldon-client", "client", required=True, help="Whose keys and servers to use."
)
@click.option(
    "--test-type",
    "test_types",
    multiple=True,
    type=click.Choice(list(TEST_TYPES)),
    default=list(TEST_TYPES),
    help="One of them only; both if not given.",
)
@click.option("--slo", required=True, help="What to keep, such as 'p99<20ms' or 'p50<5ms'.")
@click.option("--start-rate", type=float, default=START_RATE, show_default=True)
@click.option("--probes", type=int, default=MAX_PROBES, show_default=True, help="Most load tests.")
@load_options
def run_capacity(
    client: str,
    test_types: tuple[str, ...],
    slo: str,
    start_rate: float,
    probes: int,
    **flags: Any,
) -> None:
    """Search the highest arrival rate at which a running stack keeps an objective.

    Each probe measures for 15 s after a warm-up of 2 s, unless --duration and --warmup say
    otherwise.
    """
    with in_one_sentence():
        objective = Slo.parse(slo)
        if flags["rate"] is not None:
            raise SettingInvalid("--rate is what is searched: --start-rate is the first")
        options = {**given(flags), "rate": start_rate}
        wanted = [
            LoadTestSettings.from_env(
                {**PROBES, **os.environ}, client=client, test_type=test_type, **options
            )
            for test_type in dict.fromkeys(test_types)
        ]
        folder = measure_capacities(
            wanted,
            lambda settings: credentials.load(client, settings.protocol),
            objective,
            run_load_test,
            start_rate=start_rate,
            max_probes=probes,
            told=lambda text: click.echo(text, err=True),
        )
        sys.exit(show_capacities(folder))


@main.command("calibrate")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Where the calibration's folder is made.",
)
@click.option("--seconds", type=float, default=SECONDS, show_default=True, help="Of each rate.")
def run_calibration(output: Path, seconds: float) -> None:
    """Measure what the load test itself costs, on a server that answers at once."""
    with in_one_sentence():
        folder = calibrate(
            output, run_load_test, seconds=seconds, told=lambda text: click.echo(text, err=True)
        )
        tables.print_calibration(read_json(folder / CALIBRATION))
        click.echo(f"\nResult: {folder / CALIBRATION}")


@main.command()
@click.argument("folders", metavar="A B", type=FOLDER, nargs=-1, required=True)
@click.option("--names", help="What to call them, such as before,after.")
@click.option(
    "--allow-differences",
    is_flag=True,
    help="Compare runs that differ in more than the protocol; the report says in what.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Where the comparison's folder is made.",
)
def compare(
    folders: tuple[Path, ...], names: str | None, allow_differences: bool, output: Path
) -> None:
    """Compare the run in folder A with the run in folder B."""
    with in_one_sentence():
        if len(folders) < 2:
            raise SettingInvalid("compare is given one folder, expected two or more")
        called = [name.strip() for name in (names or "").split(",") if name.strip()]
        runs = comparison.sources([folder.resolve() for folder in folders], called)
        compared = comparison.compare(runs, output, allow_differences=allow_differences)
        sys.exit(show(compared))


@main.command("gate")
@click.argument("before", type=FOLDER)
@click.argument("after", type=FOLDER)
@click.option("--max-regression", required=True, help="How much slower is allowed, such as 10%.")
@click.option("--strict", is_flag=True, help="Fail where it cannot be told as well.")
@click.option("--allow-differences", is_flag=True, help="Judge runs that were made differently.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def run_gate(
    before: Path,
    after: Path,
    max_regression: str,
    strict: bool,
    allow_differences: bool,
    as_json: bool,
) -> None:
    """Fail if the run in AFTER is slower than that in BEFORE by more than is allowed."""
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
    """Write the figures, the pictures and the report of FOLDER anew, whatever it is a result of."""
    folder = folder.resolve()  # `latest` is a link
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
