"""Commands that need no running stack, with a real registry in a folder."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from stack_under_test import MODEL

from deploy.__main__ import main as deploy_main
from deploy.commands.cli import main as seldon_cli
from deploy.commands.gateway import seldon_down, seldon_up
from deploy.commands.microservice import start_microservice, stop_microservice
from ports import free_ports

Cli = Callable[..., Result]
SETUP = ("client", "--action", "setup", "--db-name", "ClientDB", "--client-name")
REFUSED_START = ("--type", "prediction", "--client", "c")


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    def run(*words: str, stdin: str = "") -> Result:
        result = CliRunner(env={"SELDON_HOME": str(tmp_path)}).invoke(seldon_cli, words, stdin)
        assert "Traceback" not in result.output
        return result

    return run


def test_the_first_line_names_the_registry_unless_quiet(cli: Cli, tmp_path: Path) -> None:
    assert cli("client").stdout.splitlines() == [
        f"connected to the registry in {tmp_path}",
        "there are no clients",
    ]
    assert cli("--quiet", "client").stdout == "there are no clients\n"
    assert cli("-q", "--zk-hosts", "zookeeper-1:2181", "client").exit_code == 0


def test_setup_prints_the_keys_and_repeats_them(cli: Cli) -> None:
    chosen = ("--set-js-key", "J", "--set-all-key", "A", "--set-all-secret", "S")
    first = cli("-q", *SETUP, "c", *chosen)
    assert first.exit_code == 0
    shown = ["    js key: J", "    all key: A", "    all secret: S"]
    assert first.stdout.splitlines() == ["client c is set up on ClientDB", *shown]
    again = cli("-q", *SETUP, "c").stdout.splitlines()
    assert again == ["client c was set up before: nothing was changed", *shown]
    assert cli("-q", "client").stdout == "client[c]:\n    DB_JNDI_NAME: ClientDB\n"


def test_keys_are_one_json_array_on_one_line(cli: Cli, tmp_path: Path) -> None:
    cli(*SETUP, "c")
    cli(*SETUP, "d")
    line, end = cli("--quiet", "keys", "--client-name", "c").stdout.split("\n")
    assert end == ""
    js, everything = json.loads(line)
    assert [key["scope"] for key in (js, everything)] == ["js", "all"]
    assert {len(js["key"]), len(everything["key"]), len(everything["secret"])} == {20}
    assert js["secret"] == ""
    assert len(json.loads(cli("-q", "keys").stdout)) == 4
    assert json.loads(cli("-q", "keys", "--scope", "js", "--client-name", "c").stdout) == [js]
    assert not [path for path in tmp_path.iterdir() if path.stat().st_mode & 0o022]
    assert (tmp_path / "secrets/c.json").stat().st_mode & 0o077 == 0


def test_a_key_can_be_changed(cli: Cli) -> None:
    cli(*SETUP, "c")
    update = ("-q", "keys", "--action", "update", "--client-name", "c", "--key", "NEW")
    (row,) = json.loads(cli(*update, "--scope", "all", "--secret", "S").stdout)
    assert (row["key"], row["secret"]) == ("NEW", "S")
    assert "needs --secret" in cli(*update, "--scope", "all").stderr
    assert "needs --client-name, --scope and --key" in cli(*update).stderr


def test_clients_are_disabled_enabled_and_removed(cli: Cli) -> None:
    cli(*SETUP, "c")
    for action, listed in (
        ("disable", "client[c]: (disabled)\n"),
        ("enable", "client[c]:\n"),
        ("remove", "there are no clients\n"),
    ):
        assert cli("client", "--action", action, "--client-name", "c").exit_code == 0
        assert cli("-q", "client").stdout.startswith(listed)


def test_databases_are_recorded(cli: Cli) -> None:
    assert cli("-q", "db", "--action", "list").stdout == "ClientDB\n"
    words = ("--db-name", "Mine", "--db-user", "u", "--db-password", "p", "--db-jdbc", "jdbc:x")
    assert cli("db", "--action", "setup", *words).exit_code == 0
    assert cli("db", "--action", "commit").exit_code == 0
    shown = cli("-q", "db").stdout
    assert json.loads(shown)["dbs"][1] == {
        "name": "Mine",
        "user": "u",
        "jdbc": "jdbc:x",
        "maxIdle": 50,
        "minIdle": 20,
    }
    with_db = ("client", "--action", "setup", "--client-name", "c", "--db-name")
    assert cli(*with_db, "Mine").exit_code == 0
    assert "database 'Other' is not set up, expected one of ClientDB, Mine" in (
        cli(*with_db, "Other").stderr
    )


STRATEGY = {
    "variations": [
        {
            "label": label,
            "ratio": ratio,
            "config": {
                "algorithms": [
                    {
                        "name": "externalPredictionServer",
                        "config": [
                            {
                                "name": "io.seldon.algorithm.external.url",
                                "value": f"http://{label}:5000/predict",
                            }
                        ],
                    }
                ]
            },
        }
        for label, ratio in (("model-a", 0.9), ("model-b", 0.1))
    ]
}


def test_a_strategy_is_created_then_committed(cli: Cli, tmp_path: Path) -> None:
    cli(*SETUP, "c")
    show = ("-q", "predict_alg", "--action", "show", "--client-name", "c")
    create = ("predict_alg", "--action", "create", "--client-name", "c", "-f")
    assert json.loads(cli(*show).stdout) == {"algorithms": []}
    assert cli(*create, "-", stdin=json.dumps(STRATEGY)).exit_code == 0
    assert json.loads(cli(*show).stdout) == STRATEGY
    (tmp_path / "strategy.json").write_text(json.dumps(STRATEGY))
    assert cli(*create, str(tmp_path / "strategy.json")).exit_code == 0
    assert cli("predict_alg", "--action", "commit", "--client-name", "c").exit_code == 0
    assert json.loads(cli(*show).stdout) == STRATEGY
    assert "externalPredictionServer" in cli("predict_alg", "--action", "list").stdout


@pytest.mark.parametrize(
    ("words", "stdin", "message"),
    [
        (("nothing",), "", "No such command 'nothing'"),
        (("predict_alg",), "", "Missing option '--action'"),
        (("client", "--action", "fly"), "", "'fly' is not one of"),
        (("client", "--action", "setup", "--client-name", "c"), "", "needs --db-name"),
        (("client", "--action", "setup", "--db-name", "ClientDB"), "", "needs --client-name"),
        ((*SETUP, "a b"), "", "client name is 'a b', expected 1 to"),
        ((*SETUP, "a" * 26), "", "1 to 25 letters"),
        (("client", "--action", "remove", "--client-name", "no"), "", "no client 'no'"),
        (("client", "--action", "processevents"), "", "not part of this product"),
        (("keys", "--client-name", "no"), "", "no client 'no'"),
        (("predict_alg", "--action", "show"), "", "needs --client-name"),
        (("predict_alg", "--action", "create", "--client-name", "c"), "", "needs -f FILE"),
        (
            ("predict_alg", "--action", "create", "--client-name", "c", "-f", "-"),
            '{"variations": ',
            "is not valid JSON: Expecting value: line 1 column 16",
        ),
        (
            ("predict_alg", "--action", "create", "--client-name", "c", "-f", "-"),
            '{"algorithms": [{"name": "other"}]}',
            "algorithms[0].name is 'other'",
        ),
        (("api", "--client-name", "c", "--endpoint", "js"), "", "expected a path"),
        (
            ("api", "--client-name", "c", "--endpoint", "/predict", "--json", "{"),
            "",
            "is not valid JSON",
        ),
        (("rec_alg", "--action", "list"), "", "recommendations"),
        (("rpc", "--action", "set", "--proto", "x"), "", "not supported"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_status_1(
    cli: Cli, words: tuple[str, ...], stdin: str, message: str
) -> None:
    cli(*SETUP, "c")
    result = cli("-q", *words, stdin=stdin)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stdout == ""


def test_no_command_is_status_1_with_the_list(cli: Cli) -> None:
    result = cli()
    assert result.exit_code == 1
    assert "predict_alg" in result.output


def test_what_needs_no_setting_up_says_so(cli: Cli) -> None:
    for words in (
        ("--setup-config",),
        ("memcached", "--action", "setup", "--numClients", "4", "--servers", "localhost:11211"),
        ("client", "--action", "zk_push"),
    ):
        result = cli(*words)
        assert result.exit_code == 0
        assert "nothing to" in result.stdout
    assert json.loads(cli("--print-default-config").stdout)["server_endpoint"]
    assert "0.1.0" in cli("--version").stdout


def test_a_database_that_is_not_there_is_reported(tmp_path: Path) -> None:
    (tmp_path / "h").mkdir()
    names = ("REST", "GRPC", "ADMIN", "CONTROL")  # else a stack of the user's is in the way
    runner = CliRunner(
        env={
            "SELDON_HOME": str(tmp_path / "h"),
            "SELDON_DATABASE_URL": "sqlite:////no/such/x.db",
            **{
                f"SELDON_{name}_PORT": str(port)
                for name, port in zip(names, free_ports(4), strict=True)
            },
        }
    )
    for command, words in ((seldon_cli, ["-q", "keys"]), (seldon_up, [])):
        result = runner.invoke(command, words)
        assert result.exit_code == 1
        assert "the registry sqlite:////no/such/x.db cannot be used" in result.stderr
        assert "Traceback" not in result.output


def test_every_command_can_be_loaded_and_says_what_it_does() -> None:
    context = click.Context(deploy_main)
    names = deploy_main.list_commands(context)
    assert names == sorted(
        ["compose", "deploy", "images", "kubernetes", "logs", "manifests", "status", "undeploy"]
    )
    for name in names:
        command = deploy_main.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.help
    assert deploy_main.get_command(context, "dance") is None


@pytest.mark.parametrize(
    ("command", "words", "unneeded"),
    [
        ("deploy.__main__:main", ["deploy", "--help"], ["matplotlib", "kubernetes"]),
        ("deploy.commands.cli:main", ["client"], ["grpc", "requests", "kubernetes"]),
        ("deploy.commands.cli:main", ["--version"], ["grpc", "sqlalchemy"]),
        ("deploy.commands.cli:main", ["model", "--help"], ["ai_edge_litert", "tensorflow"]),
    ],
)
def test_a_command_loads_nothing_that_only_others_need(
    command: str, words: list[str], unneeded: list[str], tmp_path: Path
) -> None:
    module, _, name = command.partition(":")
    say = f"print([name for name in {unneeded} if name in sys.modules])"
    script = (
        f"import atexit, sys; atexit.register(lambda: {say}); "
        f"from {module} import {name}; {name}.main({words}, standalone_mode=False)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "SELDON_HOME": str(tmp_path / "none")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    runner = CliRunner(env={"SELDON_HOME": str(tmp_path)})
    result = runner.invoke(seldon_cli, ["--debug", "keys", "--client-name", "no"])
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("error: there is no client")


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        (start_microservice, (), "Missing option '--type'"),
        (start_microservice, REFUSED_START, "no microservice is given"),
        (
            start_microservice,
            ("--type", "recommendation", "--client", "c"),
            "--type is recommendation, expected prediction",
        ),
        (
            start_microservice,
            (*REFUSED_START, "-i", "m", "image:1", "rest", "1.0"),
            "images (-i) are not supported on this machine",
        ),
        (start_microservice, (*REFUSED_START, "-p", "m", "x", "rest", "0.4"), "sum to 0.4"),
        (
            start_microservice,
            (*REFUSED_START, "--replicas", "0", "-p", "m", "x", "rest", "1"),
            "--replicas is 0, expected 1 to 64",
        ),
        (
            start_microservice,
            (*REFUSED_START, "-p", "m", str(MODEL), "rest", "1"),
            "no stack is running in",
        ),
        (stop_microservice, ("M",), "'M', expected a DNS label"),
        (stop_microservice, ("m", "grpc"), "'grpc' is not one of 'rest', 'rpc'"),
        (stop_microservice, ("m",), "no stack is running in"),
        (deploy_main, ("status",), "no stack is running in"),
    ],
)
def test_without_a_stack_there_is_one_sentence(
    tmp_path: Path, command: click.Command, words: tuple[str, ...], message: str
) -> None:
    result = CliRunner(env={"SELDON_HOME": str(tmp_path)}).invoke(command, words)
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_commands_leave_no_folder_where_no_stack_ever_was(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    runner = CliRunner(env={"SELDON_HOME": str(nowhere)})
    for command, words in (
        (seldon_cli, ["keys"]),
        (seldon_cli, ["db"]),
        (deploy_main, ["logs"]),
        (deploy_main, ["status"]),
    ):
        result = runner.invoke(command, words)
        assert result.exit_code == 1
        assert f"in {nowhere} (SELDON_HOME)" in result.stderr
    assert runner.invoke(seldon_down, []).exit_code == 0
    assert not nowhere.exists()
