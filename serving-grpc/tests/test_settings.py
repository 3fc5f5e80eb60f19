from pathlib import Path

import pytest

from serving_grpc.settings import SettingInvalid, Settings, usable_cores

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
        "GRPC_MAX_MESSAGE_BYTES": "6",
        "GRPC_GRACE_S": "0.5",
    }
    assert Settings.from_env(environ) == Settings(
        Path("m"), "other", "tensorflow", "::1", 1, 2, 3, 4, 5, 6, 0.5
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MODEL_FOLDER", ""),
        ("GRPC_PORT", "http"),
        ("GRPC_PORT", "65536"),
        ("GRPC_PORT", "-1"),
        ("GRPC_METRICS_PORT", "8601.0"),
        ("GRPC_WORKERS", "0"),
        ("GRPC_THREADS", "0"),
        ("GRPC_QUEUE_LIMIT", "many"),
        ("GRPC_MAX_MESSAGE_BYTES", "1e6"),
        ("GRPC_GRACE_S", "-1"),
        ("GRPC_GRACE_S", "nan"),
        ("GRPC_GRACE_S", "inf"),
        ("GRPC_GRACE_S", "10 s"),
    ],
)
def test_a_wrong_value_is_an_error_that_names_variable_and_value(variable, value):
    with pytest.raises(SettingInvalid) as caught:
        Settings.from_env(FOLDER | {variable: value})
    assert variable in str(caught.value)
    assert value in str(caught.value)
