from deploy.programs import Program
from deploy.targets import scrape_targets


def program(name: str, metrics_port: int) -> Program:
    return Program(name, ("x",), 1, f"http://127.0.0.1:{metrics_port}/health/ready")


def test_every_replica_is_a_target_and_the_gateway_is_none() -> None:
    programs = [
        program("control-plane", 8081),
        program("envoy", 8080),
        program("deep-rest-mnist-rest-0", 9100),
        program("mnist-rpc-1", 9103),
    ]
    assert scrape_targets(programs) == [
        {
            "targets": ["127.0.0.1:9100"],
            "labels": {
                "service": "serving-rest",
                "protocol": "rest",
                "microservice": "deep-rest-mnist",
            },
        },
        {
            "targets": ["127.0.0.1:9103"],
            "labels": {"service": "serving-grpc", "protocol": "grpc", "microservice": "mnist"},
        },
    ]
