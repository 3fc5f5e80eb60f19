"""The flags that every command of ours that loads a server takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from loadtest.errors import SettingInvalid
from loadtest.payloads import DECIMALS, PAYLOADS
from loadtest.settings import CONNECTIONS, LOOPS, wait_range
from loadtest.wire import REST_FORMS

Command = TypeVar("Command", bound=Callable[..., Any])

OPTIONS = (
    click.option(
        "--locust-slaves",
        "processes",
        type=int,
        help="Locust processes that share the users; 1, or LOADTEST_WORKERS.",
    ),
    click.option(
        "--locust-hatch-rate", "hatch_rate", type=float, help="Users started per second; 5."
    ),
    click.option(
        "--locust-clients", "users", type=int, help="Simulated users; 50, or LOADTEST_USERS."
    ),
    click.option(
        "--seldon-grpc-endpoint",
        "grpc_endpoint",
        help="HOST:PORT of gRPC; the host of --host, and SELDON_GRPC_PORT or 5000.",
    ),
    click.option(
        "--seldon-oauth-endpoint",
        "oauth_endpoint",
        help="Where tokens are fetched; what --host says.",
    ),
    click.option(
        "--seldon-predict-default-data-size",
        "data_size",
        type=int,
        help="Numbers per request; 784.",
    ),
    click.option(
        "--host",
        help="Where REST is answered; LOADTEST_HOST, or http://SELDON_BIND:SELDON_REST_PORT "
        "(127.0.0.1, 8080).",
    ),
    click.option(
        "--duration",
        "duration_s",
        type=float,
        help="Seconds measured; 60, or LOADTEST_DURATION.",
    ),
    click.option(
        "--warmup",
        "warmup_s",
        type=float,
        help="Seconds with every user before measuring; 5, or LOADTEST_WARMUP.",
    ),
    click.option(
        "--wait",
        help="Milliseconds between an answer and the next request; 900-1100, or LOADTEST_WAIT.",
    ),
    click.option("--wait-ms", type=float, nargs=2, help="The same as two numbers: MIN MAX."),
    click.option(
        "--payload",
        type=click.Choice(PAYLOADS),
        help="Real digits, or random numbers as the original; digits, or LOADTEST_PAYLOAD.",
    ),
    click.option(
        "--connections",
        type=click.Choice(CONNECTIONS),
        help="kept: one per user; per-call: a new one each time, as the original's gRPC test; "
        "kept, or LOADTEST_CONNECTIONS.",
    ),
    click.option(
        "--rest-form",
        type=click.Choice(REST_FORMS),
        help="How REST asks: the original's JSONP GET, or a POST of JSON; jsonp-get, or "
        "LOADTEST_REST_FORM.",
    ),
    click.option(
        "--decimals",
        type=click.Choice(DECIMALS),
        help="Of every number, over both protocols; full for digits, 2 for random numbers, or "
        "LOADTEST_DECIMALS.",
    ),
    click.option("--images", type=int, help="In one request, at most 16; 1, or LOADTEST_IMAGES."),
    click.option(
        "--loop",
        type=click.Choice(LOOPS),
        help="closed: users wait for answers; open: a schedule of arrivals; open if there is "
        "--rate, else closed, or LOADTEST_LOOP.",
    ),
    click.option("--rate", type=float, help="Arrivals per second of the open loop; LOADTEST_RATE."),
    click.option(
        "--arrivals",
        help="poisson, constant, or trace:FILE with a number of seconds on each line; "
        "poisson, or LOADTEST_ARRIVALS.",
    ),
    click.option(
        "--max-in-flight",
        type=int,
        help="Most requests without an answer in the open loop; 2000, or LOADTEST_MAX_IN_FLIGHT.",
    ),
    click.option("--seed", type=int, help="Of orders, waits and ids; 1, or LOADTEST_SEED."),
    click.option(
        "--model-folder",
        type=click.Path(path_type=Path),
        help="Its model.json knows which digits the model tells wrong; models/deep_mnist/1 if any",
    ),
    click.option(
        "--web-port",
        type=int,
        help="Serve Locust's own page here while the run goes on; none, or LOADTEST_WEB_PORT.",
    ),
    click.option(
        "--metrics-bind",
        metavar="HOST:PORT",
        help="Serve this run's own metrics here while it goes on; 127.0.0.1:9646 with a stack "
        "deployed here, else nowhere, or LOADTEST_METRICS_BIND.",
    ),
    click.option(
        "--server-metrics",
        help="URLs of the servers' /metrics, with commas between, or a file of Prometheus targets; "
        "those of the stack deployed here, or LOADTEST_SERVER_METRICS.",
    ),
    click.option(
        "--output",
        type=click.Path(file_okay=False, path_type=Path),
        help="Where the run's folder is made; results, or LOADTEST_OUTPUT.",
    ),
)


def load_options(command: Command) -> Command:
    """Give a command the flags; `given` makes settings of them."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def given(flags: dict[str, Any]) -> dict[str, Any]:
    """Settings, by the names of LoadTestSettings' fields; None where there is no such flag.

    Raises:
        SettingInvalid: The wait is no two numbers, or given twice.
    """
    settings = dict(flags)
    wait = settings.pop("wait")
    if wait is not None and settings["wait_ms"] is not None:
        raise SettingInvalid("--wait and --wait-ms say the same: give one of them")
    if wait is not None:
        settings["wait_ms"] = wait_range(wait)
    return settings
