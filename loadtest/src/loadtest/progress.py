"""Progress display: a bar on a terminal, else a line every few seconds."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from loadtest.run_folder import PROTOCOLS
from loadtest.settings import LoadTestSettings

LINE_EVERY_S = 5.0


def read(folder: Path) -> list[dict[str, Any]]:
    """The latest reports of the Locust processes."""
    reports = []
    for path in sorted(folder.glob("*.json")):
        try:
            reports.append(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            continue  # removed or incomplete; the next one follows within a second
    return reports


def merge(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Merge the reports of several processes; averaged percentiles are accurate enough here."""
    if not reports:
        return {"phase": "starting Locust", "measured_s": 0.0, "requests": 0, "failures": 0}
    succeeded = [(one, one["requests"] - one["failures"]) for one in reports]
    weight = sum(count for one, count in succeeded if one["p50_ms"] is not None)
    view = {
        "phase": reports[0]["phase"],
        # Processes of one protocol measure at the same time, protocols are interleaved.
        "measured_s": sum(
            max(one["measured_s"] for one in reports if one["protocol"] == protocol)
            for protocol in {one["protocol"] for one in reports}
        ),
        "requests": sum(one["requests"] for one in reports),
        "failures": sum(one["failures"] for one in reports),
    }
    for name in ("p50_ms", "p99_ms"):
        if weight:
            total = sum(one[name] * count for one, count in succeeded if one[name] is not None)
            view[name] = total / weight
    return view


def sentence(view: dict[str, Any]) -> str:
    if not view["requests"]:
        return str(view["phase"])
    parts = [view["phase"], f"{view['requests']:,} requests", f"{view['failures']:,} failures"]
    if view["measured_s"]:
        parts.append(f"{view['requests'] / view['measured_s']:.1f}/s")
    if "p50_ms" in view:
        parts.append(f"p50 {view['p50_ms']:.2f} ms, p99 {view['p99_ms']:.2f} ms")
    return " · ".join(parts)


class Display:
    """Shows the progress of one run or of several interleaved runs on stderr."""

    def __init__(self, runs: Sequence[LoadTestSettings]) -> None:
        self._before_s = max(settings.spawn_s + settings.warmup_s for settings in runs)
        self._total_s = max(settings.total_s for settings in runs)
        self._measured_s = sum(settings.duration_s for settings in runs)
        self._began = time.monotonic()
        self._next_line_s = LINE_EVERY_S
        self._bar: Progress | None = None
        self._title = " and ".join(dict.fromkeys(PROTOCOLS[one.protocol] for one in runs))
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn(self._title),
                BarColumn(),
                TextColumn("{task.completed:.0f}/{task.total:.0f} s"),
                TextColumn("{task.description}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task("starting Locust", total=self._total_s)

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def note(self, text: str) -> None:
        """Print a note."""
        print(f"note: {text}", file=sys.stderr, flush=True)  # noqa: T201

    def show(self, reports: Sequence[dict[str, Any]]) -> None:
        view = merge(reports)
        waited_s = time.monotonic() - self._began
        done_s = min(waited_s, self._before_s)
        if view["measured_s"]:
            share = view["measured_s"] / self._measured_s
            done_s = self._before_s + share * (self._total_s - self._before_s)
        if self._bar is not None:
            self._bar.update(self._task, completed=done_s, description=sentence(view))
        elif waited_s >= self._next_line_s:
            self._next_line_s += LINE_EVERY_S
            line = f"{self._title} {done_s:.0f} of {self._total_s:.0f} s: {sentence(view)}"
            print(line, file=sys.stderr, flush=True)  # noqa: T201
