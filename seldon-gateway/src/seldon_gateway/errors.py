"""Errors of the gateway.

    GatewayError
    ├── SettingInvalid        an environment variable is wrong
    ├── InvalidName           a client name, key or scope is not of its form
    ├── UnknownClient         no client of that name
    ├── InvalidStrategy       a strategy document or its ratios are wrong
    ├── RegistryUnavailable   the database cannot be reached
    └── EnvoyMissing          there is no Envoy binary for this machine

Each message names the value, what was expected and, where it helps, the next step.
"""


class GatewayError(Exception):
    """`str(error)` is one sentence for the operator."""


class SettingInvalid(GatewayError):
    """An environment variable has a wrong value; the message names it."""


class InvalidName(GatewayError):
    """A client name, consumer key or scope is not of its form."""


class UnknownClient(GatewayError):
    """No client of that name is registered."""


class InvalidStrategy(GatewayError):
    """A strategy document is wrong; the message names the field."""


class RegistryUnavailable(GatewayError):
    """The database cannot be reached or read."""


class EnvoyMissing(GatewayError):
    """No Envoy binary was found."""
