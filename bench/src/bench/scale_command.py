"""`python -m bench.scale_command`: gateway scalability; the Makefile's `scale` runs it."""

import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench import load, scale
from bench.__main__ import INTERRUPTED, commit, free_ports, sigterm_as_interrupt, write_json
from bench.cases import Form, Way
from bench.errors import BenchError
from bench.processes import usable_cores
from bench.requesting import RequestSet
from bench.scale import ScaleSettings
from bench.scale_gateway import Gateway, null_servers
from bench.servers import HOST
from deploy.databases import DEFAULT_DATABASE
from loadtest import machine

CALLERS = 8
FEW_KEYS = 10
IDLE_S = 5.0
BETWEEN_CHANGES_S = 0.5
_SPARE = "spare"


@click.command("scale")
@click.option(
    "--clients", default="10,1000,10000", show_default=True, help="Numbers of gateway clients."
)
@click.option(
    "--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="Number of rounds."
)
@click.option(
    "--seconds",
    type=click.IntRange(1, 600),
    default=3,
    show_default=True,
    help="Duration of the load per round and number of clients, seconds.",
)
@click.option(
    "--servers",
    type=click.IntRange(1, 200),
    default=10,
    show_default=True,
    help="Model servers that the clients share, each an Envoy cluster per protocol.",
)
@click.option(
    "--envoys",
    type=click.IntRange(1, 8),
    default=1,
    show_default=True,
    help="Envoys per control plane.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("results"),
    show_default=True,
    help="Parent folder of the result files.",
)
def main(clients: str, rounds: int, seconds: int, servers: int, envoys: int, output: Path) -> None:
    """Measure the gateway's cost by number of clients.

    Exit status: 0, 1 if a request failed or a step timed out, 130 on Ctrl-C. Partial results are
    written and marked.
    """
    try:
        numbers = scale.parse_clients(clients)
        sys.exit(measure(ScaleSettings(numbers, rounds, seconds, servers, envoys), output))
    except BenchError as error:
        sys.exit(f"scale: {error}")


def measure(settings: ScaleSettings, output: Path) -> int:
    """Run, print, write.

    Returns:
        The exit status.
    """
    progress = Console(stderr=True, highlight=False, soft_wrap=True)

    def tell(line: str) -> None:
        progress.print(line, markup=False)

    document: dict[str, Any] = {
        "machine": machine.describe(),
        "commit": commit(),
        "settings": {**vars(settings), "callers": CALLERS},
        "sizes": [],
        "load": [],
        "changes": [],
    }
    output.mkdir(parents=True, exist_ok=True)
    stem = output / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-scale"
    status = 0
    with sigterm_as_interrupt():
        try:
            run(settings, document, tell)
        except KeyboardInterrupt:
            status, document["incomplete"] = INTERRUPTED, "interrupted"
        except BenchError as error:
            status, document["incomplete"] = 1, str(error)
    if not document["sizes"]:
        raise BenchError(document.get("incomplete", "nothing was measured"))
    document["summary"] = scale.summarise(document)
    write_json(document, stem.with_suffix(".json"))
    text = scale.markdown(scale.table(document["summary"]))
    if "incomplete" in document:
        text += f"\nINCOMPLETE: {document['incomplete']}\n"
    stem.with_suffix(".md").write_text(text, encoding="utf-8")
    click.echo(text)
    click.echo(f"Result: {stem.with_suffix('.json')}, {stem.with_suffix('.md').name}")
    return status or int(any(line.get("failures") for line in document["summary"]))


def run(settings: ScaleSettings, document: dict[str, Any], tell: Callable[[str], None]) -> None:
    """Start a gateway of each size, then measure them interleaved."""
    each = 1 + 3 * settings.envoys
    ports = free_ports(1 + each * len(settings.clients))
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="scale-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        servers = stack.enter_context(null_servers(settings.servers, ports.pop(), folder))
        gateways: dict[int, Gateway] = {}
        for clients in settings.clients:
            own, ports = ports[:each], ports[each:]
            gateway = Gateway(folder / str(clients), clients, servers, own)
            stack.callback(gateway.close)
            document["sizes"].append(_start(gateway, tell))
            gateways[clients] = gateway
        keys = {clients: gateway.js_keys() for clients, gateway in gateways.items()}
        for number in range(settings.rounds):
            turn = scale.rotated(settings.clients, number)
            for gateway in gateways.values():
                gateway.settle()
            # Directly one after the other, as the machine drifts.
            for clients in turn:
                sample = {"round": number, "clients": clients}
                of_all = _load(gateways[clients], keys[clients], settings.seconds, folder)
                few = keys[clients][:: max(1, len(keys[clients]) // FEW_KEYS)]
                of_few = _load(gateways[clients], few, settings.seconds, folder)
                document["load"].append(sample | of_all | {"few_keys": of_few})
            for clients in turn:
                gateway = gateways[clients]
                changed = gateway.change()
                loaded = _load_while_changing(gateway, keys[clients], settings.seconds, folder)
                document["changes"].append(
                    {"round": number, "clients": clients, **changed, **loaded}
                )
                tell(
                    f"round {number + 1} of {settings.rounds}, {clients:,} clients: "
                    f"a new client was live after {changed['live_s']:.2f} s"
                )
        for sizes in document["sizes"]:
            sizes["resident_after_mb"] = gateways[sizes["clients"]].resident_mb()


def _start(gateway: Gateway, tell: Callable[[str], None]) -> dict[str, Any]:
    sizes: dict[str, Any] = {
        "clients": gateway.clients,
        "registered_per_s": gateway.registered_per_s,
        **gateway.start_control_plane(),
        "envoy_ready_s": gateway.start_envoys(),
    }
    gateway.settle()
    sizes["resident_mb"] = gateway.resident_mb()
    before, started = gateway.cpu_s(), time.perf_counter()
    time.sleep(IDLE_S)
    lasted, after = time.perf_counter() - started, gateway.cpu_s()
    sizes["idle"] = {name: (after[name] - before[name]) / lasted for name in after}
    tell(f"{gateway.clients:,} clients: Envoy was ready after {sizes['envoy_ready_s']:.1f} s")
    return sizes


def _load(gateway: Gateway, keys: list[str], seconds: int, folder: Path) -> dict[str, float]:
    """Envoy's cost per request, cycling through the keys."""
    before = gateway.first_envoy_cpu_s()
    seen = _send(gateway, keys, seconds, folder)
    spent = gateway.first_envoy_cpu_s() - before
    return {
        "request_cpu_us": spent / seen.requests * 1e6,
        "per_s": seen.requests / seen.seconds,
        "p50_ms": seen.p50_ms,
        "p99_ms": seen.p99_ms,
        "failures": seen.failures,
    }


def _load_while_changing(
    gateway: Gateway, keys: list[str], seconds: int, folder: Path
) -> dict[str, float]:
    """The latency while a client is added and removed repeatedly."""
    gateway.registry.setup_client(_SPARE, DEFAULT_DATABASE)
    done = threading.Event()

    def change() -> None:
        active = True
        while not done.wait(BETWEEN_CHANGES_S):
            active = not active
            gateway.registry.set_client_active(_SPARE, active)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        seen = _send(gateway, keys, seconds, folder)
    finally:
        done.set()
        changing.join()
    return {"p99_ms_while_changing": seen.p99_ms, "failures": seen.failures}


def _send(gateway: Gateway, keys: list[str], seconds: int, folder: Path) -> load.Load:
    targets = tuple(f"/js/predict?consumer_key={key}&json=1".encode() for key in keys)
    port = gateway.rest_port()
    request_set = RequestSet(Way.JSONP, HOST, port, "/js/predict", targets, None, Form.RECORDED)
    tool = load.tool_for(request_set.way, own=False)
    return load.run(tool, request_set, CALLERS, seconds, 0, folder, usable_cores())


if __name__ == "__main__":
    main()
