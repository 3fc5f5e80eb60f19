import os
import socket

import psutil
import pytest

from deploy.errors import PortInUse
from deploy.ports import check_free, first_free, is_free


def test_a_port_that_is_listened_on_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not is_free(port)
        with pytest.raises(PortInUse) as refused:
            check_free([("REST", "SELDON_REST_PORT", port)], "127.0.0.1")
        assert str(refused.value) == (
            f"port {port} for REST is in use by {psutil.Process().name()} (process {os.getpid()}); "
            "stop that process, or set SELDON_REST_PORT to a free port"
        )
    assert is_free(port)


def test_a_port_shared_by_so_reuseport_is_not_free() -> None:
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind(("127.0.0.1", 0))
        server.listen()
        assert not is_free(server.getsockname()[1])


def test_the_first_free_ports_are_taken_in_order() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        busy = server.getsockname()[1]
        candidates = [port for port in range(20000, 20200) if is_free(port)][:4]
        assert first_free([busy, *candidates], {candidates[1]}, 2) == [candidates[0], candidates[2]]
    assert first_free([], (), 0) == []
    with pytest.raises(
        PortInUse, match=r"SELDON_MICROSERVICE_PORTS has 1 free ports, expected at least 2"
    ):
        first_free(candidates[:1], (), 2)
