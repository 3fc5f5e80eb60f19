"""What a load test in containers or in a cluster cannot do is refused, not left out."""

from typing import Any

import pytest
from click.testing import CliRunner

from deploy.commands.compose import loadtest as in_containers
from deploy.commands.load_test import launch


@pytest.mark.parametrize(
    ("command", "words", "variable", "sentence"),
    [
        (in_containers, [], "LOADTEST_HOST", "HOST (LOADTEST_HOST) is not supported in"),
        (
            in_containers,
            [],
            "LOADTEST_WEB_PORT",
            "WEB_PORT (LOADTEST_WEB_PORT) is not supported in",
        ),
        (in_containers, [], "LOADTEST_PAYLOAD", "is '8089', expected digits or random in cont"),
        (launch, ["--target", "kubernetes"], "LOADTEST_WEB_PORT", "not supported in a cluster"),
    ],
)
def test_a_setting_without_an_effect_there_is_refused(
    command: Any, words: list[str], variable: str, sentence: str
) -> None:
    given = [*words, "--test-type", "js-predict"]
    if command is launch:
        given += ["--seldon-client", "deep_mnist_client"]
    result = CliRunner(env={variable: "8089"}).invoke(command, given)
    assert result.exit_code == 1
    assert sentence in result.output
    assert "Traceback" not in result.output
