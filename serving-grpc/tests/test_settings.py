from pathlib import Path

import pytest

from serving_core.settings import usable_cores
from serving_grpc.settings import SettingInvalid, Settings

FOLDER = {"MODEL_FOLDER": "models/deep_mnist/1"}


def test_defaults_work_on_one_machine():
    assert Settings.from_env(FOLDER) == Settings(
        model_folder=Path("models/deep_mnist/1"),
        model_name=None,
        model_engine=None,
        host="127.0.0.1",
        port=8600,
        metrics_port=8601,
        workers=usable_cores(),
        threads=32,
        queue_limit=256,
        max_message_bytes=1_048_576,
        drain_delay_s=0.5,
        grace_s=10.0,
    )


def test_every_variable_is_read():
    environ = {
        "MODEL_FOLDER": "m",
        "MODEL_NAME": "other",
        "MODEL_ENGINE": "tensorflow",
        "GRPC_HOST": "::1",
        "GRPC_PORT": "1",
        "GRPC_METRICS_PORT": "2",
        "GRPC_WORKERS": "3",
        "GRPC_THREADS": "4",
        "GRPC_QUEUE_LIMIT": "5",
        "GRPC_MAX_MESSAGE_BYTES": "2048",
        "GRPC_DRAIN_DELAY_S": "0.25",
        "GRPC_GRACE_S": "0.5",
    }
    assert Settings.from_env(environ) == Settings(
        model_folder=Path("m"),
        model_name="other",
        model_engine="tensorflow",
        host="::1",
        port=1,
        metrics_port=2,
        workers=3,
        threads=4,
        queue_limit=5,
        max_message_bytes=2048,
        drain_delay_s=0.25,
        grace_s=0.5,
    )


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("GRPC_PORT", "65536", "an integer from 0 to 65535"),
        ("GRPC_METRICS_PORT", "8601.0", "an integer from 0 to 65535"),
        ("GRPC_WORKERS", "257", "an integer from 1 to 256"),
        ("GRPC_THREADS", "0", "an integer from 1 to 200000"),
        ("GRPC_QUEUE_LIMIT", "1_000", "an integer from 1 to 10000"),
        ("GRPC_MAX_MESSAGE_BYTES", "1023", "an integer from 1024 to 1073741824, in bytes"),
        ("GRPC_DRAIN_DELAY_S", "61", "seconds from 0 to 60"),
        ("GRPC_GRACE_S", "10 s", "seconds from 0 to 3600"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_variable_value_and_limits(variable, value, expected):
    with pytest.raises(SettingInvalid) as caught:
        Settings.from_env(FOLDER | {variable: value})
    assert str(caught.value) == f"{variable} is {value!r}, expected {expected}"


def test_a_folder_is_required():
    with pytest.raises(SettingInvalid, match="MODEL_FOLDER is not set, expected the path of a mo"):
        Settings.from_env({"MODEL_FOLDER": ""})
