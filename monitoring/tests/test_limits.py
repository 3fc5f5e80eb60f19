"""Limits that servers state as well are the same here."""

from monitoring import limits
from serving_grpc.settings import Settings as GrpcSettings
from serving_rest.settings import Settings as RestSettings

ENVIRON = {"MODEL_FOLDER": "."}


def test_the_queue_limit_is_the_servers_default() -> None:
    assert RestSettings.from_env(ENVIRON).queue_limit == limits.QUEUE_LIMIT
    assert GrpcSettings.from_env(ENVIRON).queue_limit == limits.QUEUE_LIMIT
