"""`python -m bench`: benchmark of the serving path; the Makefile's `bench` runs it."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import orjson
from rich.console import Console

from bench import cases, load, peers, processes, tables
from bench.errors import BenchError
from bench.run import Bench, Settings
from bench.summary import summarise
from bench.targets import evaluate
from loadtest import machine
from serving_core import ModelFolderInvalid
from serving_core.model_folder import TENSORFLOW, read_model_folder

PACKAGES = (*machine.PACKAGES, "tensorflow-cpu", "orjson", "protobuf", "prometheus-client")
INTERRUPTED = 130  # a shell's exit status for Ctrl-C
FIRST_PORT = 13_000  # below the ephemeral range
PORTS = 11


@click.command("bench")
@click.option(
    "--rounds", type=click.IntRange(1, 1000), default=5, show_default=True, help="Number of rounds."
)
@click.option(
    "--seconds",
    type=click.IntRange(1, 600),
    default=3,
    show_default=True,
    help="Duration of each case per round, seconds.",
)
@click.option(
    "--cases", "patterns", default="", help="Case patterns such as grpc,rest-*. [default: all]"
)
@click.option(
    "--callers", default="1,8,32", show_default=True, help="Numbers of concurrent connections."
)
@click.option(
    "--peers", "others", default="", help="Other servers: name=command=url, or a YAML file."
)
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    default=Path("models/deep_mnist/1"),
    show_default=True,
    help="Model folder.",
)
@click.option(
    "--engine", default="", help="litert or tensorflow. [default: the model folder's first]"
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Parent folder of the result files.",
)
@click.option(
    "--own-load", is_flag=True, help="Use the built-in load generator instead of wrk and h2load."
)
def main(
    rounds: int,
    seconds: int,
    patterns: str,
    callers: str,
    others: str,
    model: Path,
    engine: str,
    output: Path,
    own_load: bool,
) -> None:
    """Benchmark the servers, directly and through the gateway, against the raw model.

    Exit status: 0 if every case is valid, 1 if not, 130 on Ctrl-C. Partial results are written and
    marked.
    """
    try:
        engine = engine_of(model, engine)
        servers = peers.parse(others)
        every = cases.all_cases(
            cases.parse_callers(callers), [(peer.name, peer.way, peer.form) for peer in servers]
        )
        settings = Settings(
            model,
            engine,
            tuple(cases.select(every, patterns)),
            rounds,
            seconds,
            tuple(servers),
            own_load,
        )
        sys.exit(measure(settings, output, callers))
    except BenchError as error:
        sys.exit(f"bench: {error}")


def engine_of(model: Path, engine: str) -> str:
    """The engine of the run.

    Raises:
        BenchError: The model folder does not support it, or it is not installed.
    """
    try:
        chosen = read_model_folder(model, engine or None).info.engine
    except ModelFolderInvalid as error:
        raise BenchError(f"{'ENGINE' if engine else 'MODEL'}: {error}") from None
    if chosen == TENSORFLOW and find_spec("tensorflow") is None:
        raise BenchError(
            f"ENGINE is {TENSORFLOW}, which is not installed; run make setup-tensorflow"
        )
    return chosen


def measure(settings: Settings, output: Path, callers: str) -> int:
    """Run, print, write.

    Returns:
        The exit status.
    """
    progress = Console(stderr=True, highlight=False, soft_wrap=True)

    def tell(line: str) -> None:
        progress.print(line, markup=False)

    usable = processes.usable_cores()
    cores = processes.assign_cores(usable)
    used = {case.way: load.tool_for(case.way, settings.own_load) for case in settings.cases}
    if not settings.own_load:
        for way, tool in used.items():
            if tool == load.OWN:
                wanted = load.H2LOAD if way is cases.Way.GRPC else load.WRK
                tell(
                    f"{wanted} is not installed (Debian: {load.PACKAGES[wanted]}); the built-in "
                    f"load generator, which is slower, sends {way} requests"
                )
    bench = Bench(settings, cores, free_ports(PORTS), tell)
    document = bench.document
    document |= describe(settings, cores, callers)
    output.mkdir(parents=True, exist_ok=True)
    stem = output / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-bench"
    state: dict[str, Any] = {"rounds_done": 0}

    def after_round() -> None:
        state["rounds_done"] += 1
        write_json(document | state, stem.with_suffix(".json"))

    with sigterm_as_interrupt(), processes.on_cores(cores.client):
        try:
            bench.run(after_round)
            status = 0
        except KeyboardInterrupt:
            status = INTERRUPTED
            state["incomplete"] = (
                f"interrupted in round {state['rounds_done'] + 1} of {settings.rounds}"
            )
        except BenchError as error:
            status = 1
            state["incomplete"] = str(error)
    return _report(document | state, stem, status, progress)


def _report(document: dict[str, Any], stem: Path, status: int, progress: Console) -> int:
    incomplete = document.get("incomplete")
    if not document["samples"]:
        raise BenchError(incomplete or "nothing was measured")
    summary = summarise(document)
    targets = evaluate(summary)
    shown = tables.tables(summary, targets)
    remarks = tables.remarks(summary)
    if incomplete:
        remarks.insert(0, f"INCOMPLETE: {incomplete}")
    write_json(document | {"summary": summary}, stem.with_suffix(".json"))
    text = tables.markdown(shown) + "".join(f"\n- {remark}" for remark in remarks) + "\n"
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    tables.show(shown)
    for remark in remarks:
        progress.print(remark, markup=False)
    click.echo(f"Result: {stem.with_suffix('.json')}, {stem.with_suffix('.md').name}")
    if status:
        return status
    return 0 if all(case["valid"] for case in summary["cases"]) else 1


def describe(settings: Settings, cores: processes.Cores, callers: str) -> dict[str, Any]:
    """The machine, commit and settings of the run."""
    return {
        "machine": machine.describe()
        | {"packages": {name: machine.version(name) for name in PACKAGES}},
        "commit": commit(),
        "settings": {
            "rounds": settings.rounds,
            "seconds": settings.seconds,
            "callers": callers,
            "model": str(settings.model),
            "engine": settings.engine,
            "cases": [case.label for case in settings.cases],
            "peers": [
                {
                    "name": peer.name,
                    "url": peer.url,
                    "form": peer.form,
                    "null": peer.answered is not None,
                }
                for peer in settings.peers
            ],
        },
        "cores": {name: sorted(of) for name, of in vars(cores).items()},
    }


def commit() -> str | None:
    """The commit of the working tree, with "+" if it has changes; None without git."""
    try:
        head, changed = (
            subprocess.run(
                ["git", *words],  # noqa: S607  # the git on PATH
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
            for words in (("rev-parse", "HEAD"), ("status", "--porcelain"))
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def free_ports(count: int) -> list[int]:
    """Free ports; the first depends on the process id, so concurrent runs rarely collide."""
    found = []
    first = FIRST_PORT + os.getpid() * 11 % 9000
    for port in range(first, first + 2000):
        with socket.socket() as candidate:
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise BenchError(f"the number of free ports from {first} is {len(found)}, expected {count}")


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C: stop the servers and write partial results."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def write_json(document: dict[str, Any], path: Path) -> None:
    """Write atomically, so that a killed run leaves a complete file."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    partial.replace(path)


if __name__ == "__main__":
    main()
