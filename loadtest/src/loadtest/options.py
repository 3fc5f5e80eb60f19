"""Command-line options shared by every command that generates load."""

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
        help="Number of load-generator processes. [env: LOADTEST_WORKERS; default: 1]",
    ),
    click.option(
        "--locust-hatch-rate",
        "hatch_rate",
        type=float,
        help="Spawn rate, users per second. [default: 5]",
    ),
    click.option(
        "--locust-clients",
        "users",
        type=int,
        help="Number of simulated users (closed loop). [env: LOADTEST_USERS; default: 50]",
    ),
    click.option(
        "--seldon-grpc-endpoint",
        "grpc_endpoint",
        help="HOST:PORT of the gRPC API. [default: the host of --host, port SELDON_GRPC_PORT or "
        "5000]",
    ),
    click.option(
        "--seldon-oauth-endpoint",
        "oauth_endpoint",
        help="Base URL of the token endpoint. [default: --host]",
    ),
    click.option(
        "--seldon-predict-default-data-size",
        "data_size",
        type=int,
        help="Numbers per instance. [default: 784]",
    ),
    click.option(
        "--host",
        help="Base URL of the REST API. [env: LOADTEST_HOST; default: "
        "http://SELDON_BIND:SELDON_REST_PORT (127.0.0.1, 8080)]",
    ),
    click.option(
        "--duration",
        "duration_s",
        type=float,
        help="Measured duration, seconds. [env: LOADTEST_DURATION; default: 60]",
    ),
    click.option(
        "--warmup",
        "warmup_s",
        type=float,
        help="Warm-up before the measured duration, seconds. [env: LOADTEST_WARMUP; default: 5]",
    ),
    click.option(
        "--wait",
        help="Wait time of a user after each response, milliseconds, uniform in MIN-MAX. [env: "
        "LOADTEST_WAIT; default: 900-1100]",
    ),
    click.option("--wait-ms", type=float, nargs=2, help="Same as --wait, as two numbers MIN MAX."),
    click.option(
        "--payload",
        type=click.Choice(PAYLOADS),
        help="Instances: held-out MNIST digits, or random numbers as in the original. [env: "
        "LOADTEST_PAYLOAD; default: digits]",
    ),
    click.option(
        "--connections",
        type=click.Choice(CONNECTIONS),
        help="kept: one connection per user; per-call: one per request. [env: "
        "LOADTEST_CONNECTIONS; default: kept]",
    ),
    click.option(
        "--rest-form",
        type=click.Choice(REST_FORMS),
        help="REST request variant: the original's JSONP GET, or a JSON POST. [env: "
        "LOADTEST_REST_FORM; default: jsonp-get]",
    ),
    click.option(
        "--decimals",
        type=click.Choice(DECIMALS),
        help="Decimal places of every number, in both protocols. [env: LOADTEST_DECIMALS; default: "
        "full for digits, 2 for random numbers]",
    ),
    click.option(
        "--images",
        type=int,
        help="Images per request, 1 to 16. [env: LOADTEST_IMAGES; default: 1]",
    ),
    click.option(
        "--loop",
        type=click.Choice(LOOPS),
        help="closed: users wait for responses; open: requests follow an arrival schedule. [env: "
        "LOADTEST_LOOP; default: open with --rate, else closed]",
    ),
    click.option(
        "--rate",
        type=float,
        help="Arrival rate of the open loop, requests per second. [env: LOADTEST_RATE]",
    ),
    click.option(
        "--arrivals",
        help="Arrival process: poisson, constant, or trace:FILE with one time in seconds per line. "
        "[env: LOADTEST_ARRIVALS; default: poisson]",
    ),
    click.option(
        "--max-in-flight",
        type=int,
        help="Maximum in-flight requests of the open loop. [env: LOADTEST_MAX_IN_FLIGHT; default: "
        "2000]",
    ),
    click.option(
        "--seed",
        type=int,
        help="Seed of instance order, wait times and ids. [env: LOADTEST_SEED; default: 1]",
    ),
    click.option(
        "--model-folder",
        type=click.Path(path_type=Path),
        help="Model folder; its model.json holds the expected accuracy. [env: "
        "LOADTEST_MODEL_FOLDER; default: models/deep_mnist/1 if it exists]",
    ),
    click.option(
        "--web-port",
        type=int,
        help="Port of Locust's web UI during the run. [env: LOADTEST_WEB_PORT; default: none]",
    ),
    click.option(
        "--metrics-bind",
        metavar="HOST:PORT",
        help="Address of this run's Prometheus metrics. [env: LOADTEST_METRICS_BIND; default: "
        "127.0.0.1:9646 with a stack deployed here, else none]",
    ),
    click.option(
        "--server-metrics",
        help="Comma-separated /metrics URLs of the model servers, or a Prometheus file_sd file. "
        "[env: LOADTEST_SERVER_METRICS; default: the stack deployed here]",
    ),
    click.option(
        "--output",
        type=click.Path(file_okay=False, path_type=Path),
        help="Parent folder of the result folder. [env: LOADTEST_OUTPUT; default: results]",
    ),
)


def load_options(command: Command) -> Command:
    """Add the options to a command; `given` turns their values into settings."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def given(flags: dict[str, Any]) -> dict[str, Any]:
    """Option values by LoadTestSettings field; None where an option is absent.

    Raises:
        SettingInvalid: The wait is not two numbers, or was set twice.
    """
    settings = dict(flags)
    wait = settings.pop("wait")
    if wait is not None and settings["wait_ms"] is not None:
        raise SettingInvalid("--wait and --wait-ms are both set, expected one; remove the other")
    if wait is not None:
        settings["wait_ms"] = wait_range(wait)
    return settings
