import json
import shutil
from pathlib import Path

import pytest
from stack_under_test import MODEL

from deploy.microservices import Api, Microservice, Replica, Wanted
from deploy.programs import Program
from deploy.rollout import Planned, moved, target
from seldon_gateway.strategies import Endpoint, Variation
from serving_core import ModelFolderInvalid


def _wanted(folder: Path) -> Wanted:
    return Wanted("mnist", folder, Api.REST, 1.0)


def test_a_folder_whose_content_changed_is_another_target(tmp_path: Path) -> None:
    folder = tmp_path / "1"
    shutil.copytree(MODEL, folder)
    before = target(_wanted(folder), {})
    assert target(_wanted(folder), {"HOME": "/x", "REST_PORT": "1", "GRPC_WORKERS": "1"}) == before
    assert target(_wanted(folder), {"REST_WORKERS": "1"}) != before
    document = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**document, "version": "next"}))
    assert not target(_wanted(folder), {}).serves_as(before)


def test_an_unsound_folder_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderInvalid, match=r"no model\.json"):
        target(_wanted(tmp_path), {})


def test_whoever_is_sent_to_a_superseded_process_moves() -> None:
    def variation(label: str, ratio: float, *ports: int) -> Variation:
        return Variation(label, ratio, tuple(Endpoint("127.0.0.1", port) for port in ports))

    old = Program("mnist-rest-0", ("x",), 9100, "http://127.0.0.1:9100/health/ready")
    service = Microservice(
        "mnist", Api.REST, "/m", "abc", {}, (Replica("mnist-rest-1", 9101, 9101),)
    )
    plan = Planned(service, 1.0, service.replicas, (old,))
    assert moved(
        {
            ("a", "rest"): (variation("mnist", 0.5, 9100), variation("b", 0.5, 9200)),
            ("a", "grpc"): (variation("mnist", 1.0, 9300),),
            # An operator's own document may send to it under any label.
            ("c", "rest"): (variation("default", 1.0, 9100),),
        },
        [plan],
    ) == {
        ("a", "rest"): (variation("mnist", 0.5, 9101), variation("b", 0.5, 9200)),
        ("a", "grpc"): (variation("mnist", 1.0, 9300),),
        ("c", "rest"): (variation("default", 1.0, 9101),),
    }
