"""Limits that other packages state as well are the same here."""

from loadtest import judgement
from monitoring import limits
from serving_grpc.settings import Settings as GrpcSettings
from serving_rest.settings import Settings as RestSettings

ENVIRON = {"MODEL_FOLDER": "."}


def test_the_generators_limits_are_those_of_the_report() -> None:
    assert judgement.BUSY == limits.GENERATOR_CPU
    assert judgement.CALM == limits.LIGHT_CPU
    assert judgement.LAG_P99_MS == limits.DISPATCH_LAG_P99_S * 1000
    assert judgement.LAG_P99_MS_AT_WORK == limits.DISPATCH_LAG_P99_LOADED_S * 1000


def test_the_queue_limit_is_the_servers_default() -> None:
    assert RestSettings.from_env(ENVIRON).queue_limit == limits.QUEUE_LIMIT
    assert GrpcSettings.from_env(ENVIRON).queue_limit == limits.QUEUE_LIMIT
