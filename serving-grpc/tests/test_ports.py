import socket

import pytest

from serving_grpc.ports import PortUnavailable, reserve_port

SHARED = (socket.SO_REUSEADDR, socket.SO_REUSEPORT)  # as grpc binds


def listener(port: int = 0, *options: int) -> socket.socket:
    server = socket.socket()
    for option in options:
        server.setsockopt(socket.SOL_SOCKET, option, 1)
    server.bind(("127.0.0.1", port))
    server.listen()
    return server


def test_workers_may_share_the_reserved_port():
    with reserve_port("127.0.0.1", 0) as held:
        port = held.getsockname()[1]
        with listener(port, *SHARED), listener(port, *SHARED):
            pass


@pytest.mark.parametrize("options", [(), (socket.SO_REUSEADDR,), (socket.SO_REUSEPORT,)])
def test_a_port_where_another_listens_is_refused_even_if_it_would_share(options):
    with listener(0, *options) as other:
        port = other.getsockname()[1]
        with pytest.raises(PortUnavailable, match=f"port {port} of 127.0.0.1 is in use"):
            reserve_port("127.0.0.1", port, patience_s=0)


def test_a_reserved_port_cannot_be_reserved_again():
    with reserve_port("127.0.0.1", 0) as held, pytest.raises(PortUnavailable, match="in use"):
        reserve_port("127.0.0.1", held.getsockname()[1], patience_s=0)


@pytest.mark.parametrize("options", [(), (socket.SO_REUSEPORT,)])
def test_a_port_just_left_can_be_reserved_and_shared_at_once(options):
    with listener(0, socket.SO_REUSEADDR, *options) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = server.accept()
            accepted.close()  # this side closes first: it stays in TIME_WAIT
    with reserve_port("127.0.0.1", port), listener(port, *SHARED), listener(port, *SHARED):
        pass


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
def test_an_address_that_is_not_this_machine_s_is_refused(host):
    with pytest.raises(PortUnavailable, match=f"port 0 of {host} cannot be bound: "):
        reserve_port(host, 0)
