"""Scrape targets of the model servers, for Prometheus' file-based service discovery."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TypedDict
from urllib.parse import urlsplit

from deploy.microservices import Api
from deploy.programs import Program

_MICROSERVICE = re.compile(rf"(.+)-({'|'.join(Api)})-\d+")


class TargetGroup(TypedDict):
    """The address of one server, and the labels of its series."""

    targets: list[str]
    labels: dict[str, str]


def scrape_targets(programs: Iterable[Program]) -> list[TargetGroup]:
    """A target group for each model server among `programs`."""
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
