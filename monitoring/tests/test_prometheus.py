"""What Prometheus is given: as generated, accepted by its own tools, asking for what there is."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from monitoring import gateway_metrics, metrics, prometheus, rules
from monitoring.generated import files

FOLDER = Path(__file__).parents[1]
RULE_TESTS = sorted((FOLDER / "tests").glob("*rules_test.yaml"))
NAMES = {
    value
    for module in (metrics, gateway_metrics)
    for name, value in vars(module).items()
    if name.isupper() and type(value) is str
}

PROMTOOL = shutil.which("promtool") or "promtool"
promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed: apt-get install prometheus has it",
)


def run(*words: object) -> str:
    done = subprocess.run(
        [PROMTOOL, *map(str, words)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_what_is_committed_is_what_is_generated() -> None:
    for name, text in files().items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text, f"{name}: make dashboards"
    folders = ("prometheus", "alertmanager", "grafana", "dashboards")
    found = [path for folder in folders for path in (FOLDER / folder).rglob("*") if path.is_file()]
    assert {path.relative_to(FOLDER).as_posix() for path in found} == set(files())


def test_rules_ask_for_metrics_that_exist() -> None:
    recorded = {
        rule["record"]
        for group in rules.rules()["groups"]
        for rule in group["rules"]
        if "record" in rule
    }
    suffix = "(?:_total|_bucket|_count|_sum)?"
    known = re.compile(rf"(?:{'|'.join(map(re.escape, NAMES))}){suffix}")
    for group in rules.rules()["groups"]:
        for rule in group["rules"]:
            asked = re.findall(r"\b(?:seldon_|loadtest_|envoy_|hop:|protocol:)[\w:]+", rule["expr"])
            assert asked or "up{" in rule["expr"]
            for name in asked:
                assert name in recorded or known.fullmatch(name), (rule, name)


@promtool
def test_prometheus_accepts_the_rules() -> None:
    count = sum(len(group["rules"]) for group in rules.rules()["groups"])
    assert f"{count} rules found" in run("check", "rules", FOLDER / "prometheus" / "rules.yaml")


@promtool
@pytest.mark.stack
def test_the_rules_do_what_they_say() -> None:
    run("test", "rules", *RULE_TESTS)


def test_every_alert_is_seen_to_fire() -> None:
    asked = [test for file in RULE_TESTS for test in yaml.safe_load(file.read_text())["tests"]]
    fires = {
        case["alertname"]
        for test in asked
        for case in test.get("alert_rule_test", [])
        if case["exp_alerts"]
    }
    groups = rules.rules()["groups"]
    assert fires == {
        rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule
    }


@promtool
def test_prometheus_accepts_the_configurations(tmp_path: Path) -> None:
    run("check", "config", FOLDER / "prometheus" / "compose.yaml")
    shutil.copy(FOLDER / "prometheus" / "rules.yaml", tmp_path)
    here = prometheus.on_one_machine("targets.json", "127.0.0.1:9901", "127.0.0.1:9646")
    (tmp_path / "targets.json").write_text("[]")
    (tmp_path / "here.yaml").write_text(prometheus.text(here))
    run("check", "config", tmp_path / "here.yaml")


def test_every_place_has_the_same_jobs() -> None:
    places = [
        prometheus.in_compose(),
        prometheus.in_kubernetes(),
        prometheus.on_one_machine("t", "g", "l"),
    ]
    for place in places:
        assert [job["job_name"] for job in place["scrape_configs"]] == [
            "serving", "gateway", "loadtest",
        ]  # fmt: skip
        assert yaml.safe_load(prometheus.text(place)) == place
