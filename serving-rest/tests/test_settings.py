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
    ("name", "value"),
    [
        ("MODEL_FOLDER", ""),
        ("REST_PORT", "abc"),
        ("REST_PORT", "65536"),
        ("REST_PORT", "-1"),
        ("REST_PORT", "8_500"),
        ("REST_WORKERS", "0"),
        ("REST_WORKERS", "1.5"),
        ("REST_QUEUE_LIMIT", "0"),
        ("REST_MAX_BODY_BYTES", "12"),
        ("REST_TIMEOUT_S", "nan"),
        ("REST_TIMEOUT_S", "0"),
        ("REST_DRAIN_DELAY_S", "soon"),
        ("REST_GRACE_S", "inf"),
        ("REST_SILENCE_S", "0"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(SettingInvalid, match=name):
        Settings.from_env(FOLDER | {name: value})
