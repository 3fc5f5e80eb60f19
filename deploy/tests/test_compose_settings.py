"""`make loadtest TARGET=compose` reads its variables as the load test does."""

import pytest

import env_settings as env
from deploy.commands.compose import LoadTest
from deploy.errors import SettingInvalid


@pytest.mark.parametrize("text", ["0", "65", "two", "²", "1_0"])
def test_a_number_of_workers_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingInvalid, match=f"LOADTEST_WORKERS is '{text}', expected an integer"):
        env.read(LoadTest, {"LOADTEST_WORKERS": text}, SettingInvalid)
