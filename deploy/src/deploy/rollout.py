"""Starts and stops microservices without a failed request.

In this order: start the new processes, wait until they are ready, point the clients' variations to
them, wait until Envoy uses them, stop the processes without traffic. A failure before the
variations change stops only the new processes.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from deploy import assignments, ports, stack
from deploy.assignments import Assignments
from deploy.console import say, step, wait_until
from deploy.envoy_view import EnvoyView, patience_s
from deploy.errors import MicroserviceRefused, StackUnhealthy
from deploy.local import LocalStack
from deploy.microservices import (
    Api,
    Microservice,
    Replica,
    Wanted,
    free_program_names,
    kept_replicas,
    programs_of,
)
from deploy.programs import Program
from deploy.settings import StackSettings
from seldon_gateway.registry import Registry
from seldon_gateway.strategies import Endpoint, Variation
from serving_core import read_model_folder

_HOST = "127.0.0.1"
_GATEWAY_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Planned:
    """The planned rollout of one microservice."""

    microservice: Microservice
    ratio: float
    new: tuple[Replica, ...]
    superseded: tuple[Program, ...]

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(Endpoint(_HOST, replica.port) for replica in self.microservice.replicas)


class Rollout:
    """The microservices of one running stack; the caller holds the lock."""

    def __init__(self, local: LocalStack, settings: StackSettings, registry: Registry) -> None:
        """Touches nothing.

        Args:
            local: A running stack.
            settings: Those it was started with.
            registry: Its clients.
        """
        self._local = local
        self._settings = settings
        self._registry = registry

    def start(
        self, client: str, wanted: Sequence[Wanted], replicas: int, environ: Mapping[str, str]
    ) -> bool:
        """Serve `client` with the requested microservices; other protocols are unchanged.

        Args:
            client: Its variations are replaced, protocol by protocol.
            wanted: Checked by parse_wanted.
            replicas: Processes for each.
            environ: The caller's environment, with settings of the servers.

        Returns:
            Whether anything changed.

        Raises:
            UnknownClient: Make it with seldon-cli client --action setup.
            ModelFolderInvalid: A folder is no model folder.
            SettingInvalid: A setting of a server is invalid.
            ProgramFailed: A server did not start; the old variations keep serving.
            StackUnhealthy: Envoy does not use the new variations in time; nothing is stopped.
        """
        self._registry.get_client(client)
        targets = [target(entry, environ) for entry in wanted]
        planned = self._plan(wanted, targets, replicas)
        before = assignments.read(self._registry)
        after = moved(before, planned) | _assignments_of(client, planned)
        new = [
            stack.microservice_program(plan.microservice, replica, self._local.home)
            for plan in planned
            for replica in plan.new
        ]
        superseded = [program.name for plan in planned for program in plan.superseded]
        if before == after and not new and not superseded:
            return False

        names = [program.name for program in new]
        try:
            if new:
                with step(f"starting {', '.join(names)}"):
                    self._local.start(new)
            assignments.move(self._registry, before, after)
        except BaseException:
            self._local.remove(names)
            raise
        for plan in planned:
            self._local.files.write_microservice(plan.microservice)
        self._await_gateway()
        if superseded:
            with step(f"stopping {', '.join(superseded)}"):
                self._local.remove(superseded)
        return True

    def stop(self, name: str, apis: Iterable[Api]) -> None:
        """Stop a microservice; a client without another one is left without.

        Raises:
            MicroserviceRefused: There is none of that name, or it shares a client's traffic with
                another one.
            StackUnhealthy: Envoy still uses it after the timeout; nothing is stopped.
        """
        running = self._local.files.programs()
        stopping: list[str] = []
        before = assignments.read(self._registry)
        after = dict(before)
        for api in apis:
            of_api = programs_of(name, api, running)
            stopping += of_api
            endpoints = {Endpoint(_HOST, running[program].port) for program in of_api}
            after = assignments.without(after, name, api, endpoints)
        if not stopping:
            raise MicroserviceRefused(f"no microservice {name} is running; see `make status`")
        if before != after:
            assignments.move(self._registry, before, after)
            self._await_gateway()
            for client, protocol in assignments.changed(before, after):
                say(f"client {client} has no {protocol} variations now")
        with step(f"stopping {', '.join(stopping)}"):
            self._local.remove(stopping)

    # Planning

    def _plan(
        self, wanted: Sequence[Wanted], targets: Sequence[Microservice], replicas: int
    ) -> list[Planned]:
        files = self._local.files
        running = files.programs()
        unready = self._local.unready()
        taken_names = set(running) | set(self._local.states())
        taken_ports = {port for program in running.values() for port in _ports_of(program)}
        planned = []
        for entry, target in zip(wanted, targets, strict=True):
            mine = programs_of(target.name, target.api, running)
            healthy = [program for program in mine if program not in unready]
            recorded = files.microservice(target.name, target.api)
            kept = kept_replicas(target, recorded, healthy, replicas)
            names = free_program_names(target.name, target.api, taken_names, replicas - len(kept))
            new = self._new_replicas(target, names, taken_ports)
            taken_ports |= {replica.port for replica in new}
            taken_ports |= {replica.metrics_port for replica in new}
            staying = {replica.program for replica in kept}
            planned.append(
                Planned(
                    dataclasses.replace(target, replicas=(*kept, *new)),
                    entry.ratio,
                    new,
                    tuple(running[name] for name in mine if name not in staying),
                )
            )
        return planned

    def _new_replicas(
        self, target: Microservice, names: Sequence[str], taken: set[int]
    ) -> tuple[Replica, ...]:
        """Find ports that no other variation routes to."""
        elsewhere = {
            endpoint.port
            for (_, protocol), variations in assignments.read(self._registry).items()
            for variation in variations
            for endpoint in variation.endpoints
            if (variation.label, protocol) != (target.name, target.api.protocol)
        }
        # gRPC and HTTP/1.1 metrics cannot share a port.
        each = 1 if target.api is Api.REST else 2
        found = ports.first_free(
            self._settings.microservice_ports, taken | elsewhere, each * len(names)
        )
        return tuple(
            Replica(name, found[each * i], found[each * i + each - 1])
            for i, name in enumerate(names)
        )

    def _await_gateway(self) -> None:
        with step("waiting until Envoy uses the new routes"):
            envoy = EnvoyView(self._settings.gateway, self._registry)
            timeout_s = patience_s(_GATEWAY_TIMEOUT_S, self._settings.gateway.poll_s)
            if not wait_until(envoy.is_up_to_date, timeout_s):
                raise StackUnhealthy(
                    f"Envoy does not use the new variations after {timeout_s:g} s; "
                    "nothing was stopped; see `make logs` of control-plane and envoy"
                )


def target(entry: Wanted, environ: Mapping[str, str]) -> Microservice:
    """The microservice of an entry, without replicas.

    Raises:
        ModelFolderInvalid: The folder is no model folder.
    """
    environment = stack.server_environment(entry.api, environ)
    model = read_model_folder(entry.folder, environment.get("MODEL_ENGINE") or None)
    return Microservice(
        name=entry.name,
        api=entry.api,
        folder=str(entry.folder),
        model=model.fingerprint,
        environment=environment,
    )


def _assignments_of(client: str, planned: Iterable[Planned]) -> Assignments:
    return assignments.of_client(
        client,
        [
            (
                plan.microservice.api,
                Variation(plan.microservice.name, plan.ratio, plan.endpoints),
            )
            for plan in planned
        ],
    )


def moved(before: Assignments, planned: Iterable[Planned]) -> Assignments:
    """The assignments with superseded endpoints replaced by their successors."""
    moved = dict(before)
    for plan in planned:
        old = {Endpoint(_HOST, program.port) for program in plan.superseded}
        for key, variations in moved.items():
            moved[key] = tuple(
                variation
                if old.isdisjoint(variation.endpoints)
                else dataclasses.replace(variation, endpoints=plan.endpoints)
                for variation in variations
            )
    return moved


def _ports_of(program: Program) -> set[int]:
    """The ports a program listens on: its own and that of its health."""
    return {program.port, urlsplit(program.ready_url).port or program.port}
