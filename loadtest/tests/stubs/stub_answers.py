"""What a gateway answers, as far as every stub agrees: the shapes, the digits, the keys."""

import json
from collections.abc import Callable

import numpy as np

from seldon_pb2 import ClassificationReply, ClassificationRequest, DefaultCustomPredictRequest
from serving_core.digits import held_out

SIZE = 784
JS_KEY = "js-key"
OAUTH = ("all-key", "all-secret")
# The held-out digits, known bit by bit; anything else is called a 0.
LABELS = {
    image.tobytes(): int(label)
    for image, label in zip(held_out().images, held_out().labels, strict=True)
}


def digit_of(values: list[float]) -> int:
    assert len(values) == SIZE
    return LABELS.get(np.array(values, np.float32).tobytes(), 0)


def digit_in_json(text: str) -> int:
    """What the `json` parameter of /js/predict shows."""
    return digit_of(json.loads(text)["data"])


def digit_in_request(request: ClassificationRequest) -> int:
    """What a request of Classify shows."""
    (digit,) = digits_in_request(request)
    return digit


def digits_in_request(request: ClassificationRequest) -> list[int]:
    """The same of a request of one image or several."""
    instance = DefaultCustomPredictRequest()
    assert request.data.Unpack(instance)
    values = list(instance.values)
    return [digit_of(values[start : start + SIZE]) for start in range(0, len(values), SIZE)]


def scores_for(digit: int) -> list[float]:
    scores = [0.01] * 10
    scores[digit] = 0.91
    return scores


def jsonp(callback: str, puid: str, scores: list[float]) -> str:
    """The answer of /js/predict."""
    predictions = [
        {"prediction": score, "predictedClass": str(index % 10), "confidence": score}
        for index, score in enumerate(scores)
    ]
    meta = {"puid": puid, "modelName": "stub", "variation": "default"}
    document = {"meta": meta, "predictions": predictions, "custom": None}
    return f"{callback}({json.dumps(document)})" if callback else json.dumps(document)


def jsonp_error(error_id: int, message: str) -> str:
    return f"j({json.dumps({'error_id': error_id, 'error_msg': message, 'http_response': 400})})"


def reply(puid: str, scores: list[float]) -> ClassificationReply:
    """The answer of Classify."""
    answer = ClassificationReply()
    answer.meta.puid = puid
    for digit, score in enumerate(scores):
        answer.predictions.add(prediction=score, predictedClass=str(digit % 10), confidence=score)
    return answer


def token(query: dict[str, str], count: Callable[[], int]) -> tuple[int, str]:
    """Status and answer of /token; `count` numbers those that get one."""
    if (query.get("consumer_key"), query.get("consumer_secret")) != OAUTH:
        return 401, json.dumps({"error_id": 6, "error_msg": "Consumer secret not correct"})
    return 200, json.dumps({"access_token": f"token-{count()}", "expires_in": 6000})


def timing(queue_s: float, compute_s: float, total_s: float) -> str:
    """The text of Server-Timing."""
    return (
        f"queue;dur={queue_s * 1000:.3f}, compute;dur={compute_s * 1000:.3f}, "
        f"total;dur={total_s * 1000:.3f}"
    )


TIMING = timing(0.00025, 0.0015, 0.002)  # of the stubs that keep no time
