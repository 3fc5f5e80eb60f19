import os
from pathlib import Path

import pytest

from serving_rest.settings import SettingInvalid, Settings

FOLDER = {"MODEL_FOLDER": "models/deep_mnist/1"}


def test_defaults_serve_on_one_machine() -> None:
    settings = Settings.from_env(FOLDER)
    assert settings.model_folder == Path("models/deep_mnist/1")
    assert (settings.host, settings.port) == ("127.0.0.1", 8500)
    assert settings.workers == len(os.sched_getaffinity(0))
    assert settings.queue_limit == 256
    assert settings.threads == 4
    assert settings.max_body_bytes == 1_048_576
    assert settings.model_name is None
    assert settings.model_engine is None
    assert settings.metrics_dir is None


def test_every_variable_is_read() -> None:
    settings = Settings.from_env(
        {
            "MODEL_FOLDER": "m",
            "MODEL_NAME": "digits",
            "MODEL_ENGINE": "tensorflow",
            "REST_HOST": "10.1.2.3",
            "REST_PORT": "9100",
            "REST_WORKERS": "3",
            "REST_THREADS": "7",
            "REST_QUEUE_LIMIT": "5",
            "REST_MAX_BODY_BYTES": "2048",
            "REST_TIMEOUT_S": "2.5",
            "REST_READ_TIMEOUT_S": "3",
            "REST_DRAIN_DELAY_S": "0",
            "REST_GRACE_S": "20",
            "REST_SILENCE_S": "5",
            "REST_METRICS_DIR": "metrics",
        }
    )
    assert settings == Settings(
        model_folder=Path("m"),
        model_name="digits",
        model_engine="tensorflow",
        host="10.1.2.3",
        port=9100,
        workers=3,
        threads=7,
        queue_limit=5,
        max_body_bytes=2048,
        timeout_s=2.5,
        read_timeout_s=3.0,
        drain_delay_s=0.0,
        silence_s=5,
        grace_s=20.0,
        metrics_dir=Path("metrics"),
    )


def test_an_empty_variable_is_an_absent_one() -> None:
    empty = {"REST_PORT": "", "MODEL_NAME": "", "REST_METRICS_DIR": ""}
    assert Settings.from_env(FOLDER | empty) == Settings.from_env(FOLDER)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("REST_PORT", "65536", "an integer from 0 to 65535"),
        ("REST_WORKERS", "1.5", "an integer from 1 to 256"),
        ("REST_THREADS", "11001", "an integer from 1 to 11000"),
        ("REST_QUEUE_LIMIT", "1_000", "an integer from 1 to 10000"),
        ("REST_MAX_BODY_BYTES", "12", "an integer from 1024 to 1073741824, in bytes"),
        ("REST_TIMEOUT_S", "0", "seconds from 0.001 to 3600"),
        ("REST_READ_TIMEOUT_S", "0.09", "seconds from 0.1 to 3600"),
        ("REST_DRAIN_DELAY_S", "soon", "seconds from 0 to 60"),
        ("REST_GRACE_S", "3601", "seconds from 0 to 3600"),
        ("REST_SILENCE_S", "0", "seconds from 1 to 3600"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_variable_value_and_limits(
    name: str, value: str, expected: str
) -> None:
    with pytest.raises(SettingInvalid) as caught:
        Settings.from_env(FOLDER | {name: value})
    assert str(caught.value) == f"{name} is {value!r}, expected {expected}"


def test_a_folder_is_required() -> None:
    with pytest.raises(SettingInvalid, match="MODEL_FOLDER is not set, expected the path of a mo"):
        Settings.from_env({"MODEL_FOLDER": ""})
