"""Where the servers' metrics are, in the form that Prometheus reads from a file (file_sd)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypedDict
from urllib.parse import urlsplit

from deploy.microservices import Api
from deploy.programs import Program

_MICROSERVICE = re.compile(rf"(.+)-({'|'.join(Api)})-\d+")


class TargetGroup(TypedDict):
    """One process group's address, and the labels that its series get."""

    targets: list[str]
    labels: dict[str, str]


def scrape_targets(programs: Iterable[Program]) -> list[TargetGroup]:
    """A group for each server among `programs`; the gateway's programs are none."""
    groups: list[TargetGroup] = []
    for program in programs:
        named = _MICROSERVICE.fullmatch(program.name)
        if named is not None:
            labels = {
                "service": f"serving-{Api(named[2]).protocol}",
                "protocol": Api(named[2]).protocol,
                "microservice": named[1],
            }
            groups.append({"targets": [urlsplit(program.ready_url).netloc], "labels": labels})
    return groups
