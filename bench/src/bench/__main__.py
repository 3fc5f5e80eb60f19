"""`python -m bench`: what the serving path costs; the Makefile's `bench` runs it."""

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
from bench.targets import held
from loadtest import machine
from model_runtime import ModelFolderInvalid
from model_runtime.model_folder import TENSORFLOW, read_model_folder

PACKAGES = (*machine.PACKAGES, "tensorflow-cpu", "orjson", "protobuf", "prometheus-client")
INTERRUPTED = 130  # as a shell says of Ctrl-C
FIRST_PORT = 13_000  # below the ephemeral range
PORTS = 11


@click.command("bench")
@click.option("--rounds", type=click.IntRange(1, 1000), default=5, show_default=True)
@click.option(
    "--seconds",
    type=click.IntRange(1, 600),
    default=3,
    show_default=True,
    help="Of each case in each round.",
)
@click.option("--cases", "patterns", default="", help="Names such as grpc,rest-*; all by default.")
@click.option("--callers", default="1,8,32", show_default=True)
@click.option(
    "--peers", "others", default="", help="name=command=url, or a YAML file of other servers."
)
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    default=Path("models/deep_mnist/1"),
    show_default=True,
)
@click.option("--engine", default="", help="litert or tensorflow; the folder's first by default.")
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("results"),
    show_default=True,
)
@click.option("--own-load", is_flag=True, help="Do without wrk and h2load where they are there.")
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
    """Measure the servers, directly and through the gateway, beside the raw model.

    Ends with 0 if every case is valid, with 1 if not, with 130 after Ctrl-C; what was measured
    until then is written, and marked.
    """
    try:
        engine = engine_of(model, engine)
        servers = peers.parse(others)
        every = cases.all_cases(
            cases.parse_callers(callers), [(peer.name, peer.way) for peer in servers]
        )
        settings = Settings(
            model,
            engine,
            tuple(cases.chosen(every, patterns)),
            rounds,
            seconds,
            tuple(servers),
            own_load,
        )
        sys.exit(measure(settings, output, callers))
    except BenchError as error:
        sys.exit(f"bench: {error}")


def engine_of(model: Path, engine: str) -> str:
    """The engine to measure with.

    Raises:
        BenchError: The folder has no model for it, or it is not installed.
    """
    try:
        chosen = read_model_folder(model, engine or None).info.engine
    except ModelFolderInvalid as error:
        raise BenchError(f"{'ENGINE' if engine else 'MODEL'}: {error}") from None
    if chosen == TENSORFLOW and find_spec("tensorflow") is None:
        raise BenchError(f"ENGINE={TENSORFLOW} needs TensorFlow, which is not installed; run make setup-tensorflow")
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
    cores = processes.divide(usable)
    used = {case.way: load.tool_for(case.way, settings.own_load) for case in settings.cases}
    if not settings.own_load:
        for way, tool in used.items():
            if tool == load.OWN:
                wanted = load.H2LOAD if way is cases.Way.GRPC else load.WRK
                tell(
                    f"{wanted} is not installed (Debian: {load.PACKAGES[wanted]}): {way} is sent "
                    "by our own generator, whose own cost limits it sooner"
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

    with ending_in_order(), processes.on_cores(cores.client):
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
    targets = held(summary)
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
    """What was measured, on what."""
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
            "peers": [{"name": peer.name, "url": peer.url} for peer in settings.peers],
        },
        "cores": {name: sorted(of) for name, of in vars(cores).items()},
    }


def commit() -> str | None:
    """The commit of the working tree, with "+" where it was changed since; None without git."""
    try:
        head, changed = (
            subprocess.run(
                ["git", *words],  # noqa: S607  # whichever git the person uses
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
    """Ports that are free now; each run looks somewhere else, so that two at once seldom meet."""
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
    raise BenchError(f"fewer than {count} ports are free from {first}")


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Take SIGTERM as Ctrl-C is taken: servers are ended, what was measured is written."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def write_json(document: dict[str, Any], path: Path) -> None:
    """Beside it first: a run that is killed leaves the last whole file."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2))
    partial.replace(path)


if __name__ == "__main__":
    main()
