"""Assignments of every client's traffic to variations: read, plan and apply them."""

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any, TypeAlias

from deploy.errors import MicroserviceRefused
from deploy.microservices import Api
from seldon_gateway.registry import Registry
from seldon_gateway.strategies import Endpoint, Protocol, Variation

Key: TypeAlias = tuple[str, Protocol]
"""A client, and one of the two protocols."""

Assignments: TypeAlias = dict[Key, tuple[Variation, ...]]


def read(registry: Registry) -> Assignments:
    """The assignments of every client; empty for a protocol that is not served."""
    return {
        (client.name, api.protocol): registry.strategy(client.name).of(api.protocol)
        for client in registry.list_clients()
        for api in (Api.REST, Api.RPC)
    }


def of_client(client: str, served: Iterable[tuple[Api, Variation]]) -> Assignments:
    """The assignments of one client, for the protocols that are served."""
    made: Assignments = {}
    for api, variation in served:
        key = (client, api.protocol)
        made[key] = (*made.get(key, ()), variation)
    return made


def without(
    assignments: Assignments, name: str, api: Api, endpoints: Collection[Endpoint]
) -> Assignments:
    """The assignments without the microservice `name`; its only clients get none.

    Args:
        assignments: The current ones.
        name: Of the microservice, for the error.
        api: Its API.
        endpoints: Its replicas.

    Raises:
        MicroserviceRefused: It shares a client's traffic with another one.
    """
    after = dict(assignments)
    for (client, protocol), variations in assignments.items():
        hit = [one for one in variations if not set(endpoints).isdisjoint(one.endpoints)]
        if protocol != api.protocol or not hit:
            continue
        if len(variations) > len(hit):
            others = ", ".join(one.label for one in variations if one not in hit)
            raise MicroserviceRefused(
                f"{name} serves {hit[0].ratio:g} of the {api} traffic of client {client}, "
                f"the rest goes to {others}; change the ratios with start-microservice first"
            )
        after[client, protocol] = ()
    return after


def changed(before: Assignments, after: Assignments) -> list[Key]:
    """The clients and protocols whose variations differ."""
    return [key for key, variations in after.items() if variations != before.get(key)]


def move(registry: Registry, before: Assignments, after: Assignments) -> None:
    """Apply every change; on an error, restore what was there before."""
    done: list[Key] = []
    try:
        for key in changed(before, after):
            registry.replace_variations(*key, after[key])
            done.append(key)
    except BaseException:
        for key in done:
            registry.replace_variations(*key, before[key])
        raise


def to_json(assignments: Assignments) -> str:
    """Serialise for `from_json` in another process."""
    return json.dumps(
        [
            {
                "client": client,
                "protocol": protocol,
                "variations": [
                    {
                        "label": one.label,
                        "ratio": one.ratio,
                        "endpoints": [[it.host, it.port] for it in one.endpoints],
                    }
                    for one in variations
                ],
            }
            for (client, protocol), variations in assignments.items()
        ]
    )


def from_json(text: str) -> Assignments:
    """Parse the output of `to_json`.

    Raises:
        ValueError: The text is something else.
    """
    try:
        return {_key(row): tuple(map(_variation, row["variations"])) for row in json.loads(text)}
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a list of assignments: {error!r}") from error


def _key(row: Mapping[str, Any]) -> Key:
    protocol = row["protocol"]
    if protocol not in {api.protocol for api in Api}:
        raise ValueError(f"protocol is {protocol!r}, expected rest or grpc")
    return str(row["client"]), protocol


def _variation(row: Mapping[str, Any]) -> Variation:
    endpoints = tuple(Endpoint(str(host), int(port)) for host, port in row["endpoints"])
    return Variation(str(row["label"]), float(row["ratio"]), endpoints)
