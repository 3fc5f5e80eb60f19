from pathlib import Path

import pytest

from seldon_gateway.errors import SettingInvalid
from seldon_gateway.settings import GatewaySettings


def test_the_defaults_are_for_one_machine() -> None:
    settings = GatewaySettings.from_env({})
    assert settings.bind == "127.0.0.1"
    assert (settings.rest_port, settings.grpc_port) == (8080, 5000)
    assert (settings.admin_port, settings.control_port) == (9901, 8081)
    assert (settings.control_bind, settings.control_host) == ("127.0.0.1", "127.0.0.1")
    assert settings.stats_port is None
    assert settings.token_ttl_s == 6000
    assert settings.envoy_bin is None
    assert settings.cors_origins == ()


def test_home_is_absolute_and_holds_the_default_database() -> None:
    settings = GatewaySettings.from_env({"SELDON_HOME": "some/where"})
    assert settings.home == Path.cwd() / "some" / "where"
    assert settings.database_url == f"sqlite:///{settings.home}/seldon.db"


def test_every_variable_has_its_field(tmp_path: Path) -> None:
    environ = {
        "SELDON_HOME": str(tmp_path),
        "SELDON_BIND": "0.0.0.0",  # noqa: S104
        "SELDON_REST_PORT": "1",
        "SELDON_GRPC_PORT": "2",
        "SELDON_ADMIN_PORT": "3",
        "SELDON_STATS_PORT": "4",
        "SELDON_CONTROL_PORT": "65535",
        "SELDON_CONTROL_BIND": "::",
        "SELDON_CONTROL_HOST": "control-plane",
        "SELDON_DATABASE_URL": "postgresql+psycopg://host/db",
        "SELDON_TOKEN_TTL": "60",
        "SELDON_TIMEOUT": "0.5",
        "SELDON_CORS_ORIGINS": "https://app.example.com, http://[::1]:3000,*",
        "SELDON_POLL": "1.5",
        "SELDON_JWKS_CACHE": "2",
        "SELDON_ENVOY_THREADS": "4",
        "SELDON_ENVOY_HEAP": "4096",
        "ENVOY_BIN": "/opt/envoy",
    }
    assert GatewaySettings.from_env(environ) == GatewaySettings(
        home=tmp_path,
        bind="0.0.0.0",  # noqa: S104
        rest_port=1,
        grpc_port=2,
        admin_port=3,
        stats_port=4,
        control_port=65535,
        control_bind="::",
        control_host="control-plane",
        database_url="postgresql+psycopg://host/db",
        token_ttl_s=60,
        timeout_s=0.5,
        cors_origins=("https://app.example.com", "http://[::1]:3000", "*"),
        poll_s=1.5,
        jwks_cache_s=2,
        envoy_threads=4,
        envoy_heap_mib=4096,
        envoy_bin="/opt/envoy",
    )


def test_an_empty_variable_counts_as_absent() -> None:
    names = ("SELDON_HOME", "SELDON_REST_PORT", "SELDON_TIMEOUT", "SELDON_DATABASE_URL")
    assert GatewaySettings.from_env(dict.fromkeys(names, "")) == GatewaySettings.from_env({})


@pytest.mark.parametrize(
    "name", ["SELDON_REST_PORT", "SELDON_GRPC_PORT", "SELDON_ADMIN_PORT", "SELDON_CONTROL_PORT"]
)
@pytest.mark.parametrize("value", ["0", "65536", "-1", "http", "80.0", "\u0668\u0660"])
def test_a_wrong_port_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(SettingInvalid, match=f"{name} is .*, expected an integer from 1 to 65535"):
        GatewaySettings.from_env({name: value})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("SELDON_TOKEN_TTL", "60.5", "an integer from 1 to 86400, in seconds"),
        ("SELDON_TOKEN_TTL", "86401", "an integer from 1 to 86400, in seconds"),
        ("SELDON_TIMEOUT", "soon", "seconds from 0.01 to 600"),
        ("SELDON_POLL", "0", "seconds from 0.05 to 60"),
        ("SELDON_JWKS_CACHE", "inf", "seconds from 1 to 86400"),
        ("SELDON_ENVOY_THREADS", "0", "an integer from 1 to 256"),
        ("SELDON_ENVOY_HEAP", "64", "an integer from 128 to 1048576, in MiB"),
    ],
)
def test_a_wrong_number_is_refused_by_name_with_its_limits(
    name: str, value: str, expected: str
) -> None:
    with pytest.raises(SettingInvalid) as caught:
        GatewaySettings.from_env({name: value})
    assert str(caught.value) == f"{name} is {value!r}, expected {expected}"


@pytest.mark.parametrize("name", ["SELDON_BIND", "SELDON_CONTROL_BIND", "SELDON_CONTROL_HOST"])
@pytest.mark.parametrize("value", ["http://host", "[::1]", "a b", "h" * 254])
def test_a_wrong_host_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(SettingInvalid, match=f"{name} is .*, expected a host name or an address"):
        GatewaySettings.from_env({name: value})


@pytest.mark.parametrize(
    "value",
    [
        "app.example.com",
        "https://app.example.com/",
        "https://App.example.com",
        "https://*.example.com",
        "https://a.example.com;https://b.example.com",
        "null",
    ],
)
def test_a_wrong_origin_is_refused_by_name(value: str) -> None:
    with pytest.raises(SettingInvalid, match=r"SELDON_CORS_ORIGINS is .*, expected \* or orig"):
        GatewaySettings.from_env({"SELDON_CORS_ORIGINS": f"http://localhost:3000,{value}"})
