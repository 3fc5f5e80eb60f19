"""A random mix of requests over all protocols and two models, each answer checked to be its own.

`send` runs in a process of its own, beside others.
"""

import http.client
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from protocol_calls import WAYS, Gateway, Prediction, Refusal, Target, Way
from serving_core import Tensors

SCALING_MODEL = """
import numpy as np


class Model:
    inputs = {"x": ("FP32", [-1, -1]), "k": ("INT64", [-1])}
    outputs = {"scaled": ("FP32", [-1, -1]), "total": ("FP64", [-1])}

    def load(self, folder):
        pass

    def predict(self, inputs):
        scaled = inputs["x"] * inputs["k"][:, None].astype(np.float32)
        return {"scaled": scaled, "total": scaled.sum(axis=1, dtype=np.float64)}
"""

BAD_SHARE = 0.1
TOLERANCE = 1e-5  # of the classifier's scores: the engine rounds otherwise in other batches
_MAX_ROWS = 40
_MAX_WIDTH = 24
# Prime to 784: the values of no number of such images are those of whole images.
_WIDTHS = (701, 709, 719, 727, 733, 739, 743, 751, 757, 761, 769, 773)
_OK = {"rest": "200", "grpc": "OK"}
_INVALID = {"rest": "400", "grpc": "INVALID_ARGUMENT"}
_UNKNOWN = {"rest": "404", "grpc": "NOT_FOUND"}
_SHOWN = 10  # of what is wrong, by caller

Counts = Counter[tuple[str, str, str]]
"""Numbers of responses by form of request, model and status."""


@dataclass(frozen=True)
class Job:
    """What one process sends.

    Attributes:
        rest_port: The gateway's port of REST.
        grpc_target: The gateway's address of gRPC.
        classifier: A classifier of images.
        images: Images, shape (n, 784), whose scores differ.
        scores: Their scores, shape (n, classes).
        scaling: SCALING_MODEL.
        callers: Seeds of its callers.
        requests: Number of requests of each caller.
    """

    rest_port: int
    grpc_target: str
    classifier: Target
    images: NDArray[np.float32]
    scores: NDArray[np.float32]
    scaling: Target
    callers: range
    requests: int


@dataclass(frozen=True)
class Question:
    """A request, and its only right outcome: outputs, or a refusal with this part of a text."""

    target: Target
    inputs: Tensors
    expected: Tensors | Refusal


def send(job: Job) -> tuple[Counts, list[str]]:
    """Send the requests of all callers, each in a thread and on connections of its own.

    Returns:
        The counts, and what was wrong with answers.
    """
    with ThreadPoolExecutor(len(job.callers)) as pool:
        found = list(pool.map(lambda seed: _Caller(job, seed).run(), job.callers))
    counts = sum((counts for counts, _ in found), Counts())
    return counts, [text for _, wrong in found for text in wrong]


class _Caller:
    def __init__(self, job: Job, seed: int) -> None:
        self._job = job
        self._seed = seed
        self._random = np.random.default_rng(seed)

    def run(self) -> tuple[Counts, list[str]]:
        counts = Counts()
        wrong: list[str] = []
        names = list(WAYS)
        with Gateway(self._job.rest_port, self._job.grpc_target) as gateway:
            for number in range(self._job.requests):
                name = names[self._random.integers(len(names))]
                way, id = WAYS[name], f"{self._seed}-{number}"
                question = self._question(name, way, id)
                outcome = _ask(gateway, way, question, id)
                code = outcome.code if isinstance(outcome, Refusal) else _OK[way.transport]
                model = "scaling" if "k" in question.inputs else "classifier"
                counts[name, model, code] += 1
                problem = _problem(question, id, outcome)
                if problem and len(wrong) < _SHOWN:
                    wrong.append(f"request {id}, {name}, {model}: {problem}")
        return counts, wrong

    def _question(self, name: str, way: Way, id: str) -> Question:
        # As many requests of 1 row as of 20 to 40.
        rows = int(exp(self._random.uniform(0, log((way.max_rows or _MAX_ROWS) + 1))))
        bad = self._random.random() < BAD_SHARE
        if way.named and self._random.random() < 0.5:
            question = self._scaled(rows)
        else:
            question = self._classified(rows)
        return self._spoilt(name, way, id, question) if bad else question

    def _classified(self, rows: int) -> Question:
        job = self._job
        chosen = self._random.integers(len(job.images), size=rows)
        (source,), (result,) = job.classifier.signature.inputs, job.classifier.signature.outputs
        outputs = {result.name: job.scores[chosen]}
        return Question(job.classifier, {source.name: job.images[chosen]}, outputs)

    def _scaled(self, rows: int) -> Question:
        width = self._random.integers(1, _MAX_WIDTH + 1)
        # Products of these are exact in float32.
        x = self._random.integers(-4000, 4000, size=(rows, width)).astype(np.float32) / 4
        k = self._random.integers(-1000, 1000, size=rows)
        scaled = x * k[:, None].astype(np.float32)
        outputs = {"scaled": scaled, "total": scaled.sum(axis=1, dtype=np.float64)}
        return Question(self._job.scaling, {"x": x, "k": k}, outputs)

    def _spoilt(self, name: str, way: Way, id: str, question: Question) -> Question:
        """A request that is refused with a text that only it can have."""
        target, inputs = question.target, dict(question.inputs)
        invalid, unknown = _INVALID[way.transport], _UNKNOWN[way.transport]
        first = next(iter(inputs))
        rows, width = inputs[first].shape
        kinds = ["model", "input"] if way.named else ["tensors"]
        if target is self._job.classifier:
            kinds += ["width", "value"]
        if way.max_rows == 16:
            kinds += ["rows"]
        match kinds[self._random.integers(len(kinds))]:
            case "model":
                other = replace(target, name=f"no-{id}")
                return Question(other, inputs, Refusal(unknown, other.name))
            case "input":
                inputs[f"no-{id}"] = inputs.pop(first)
                text = "instances[0]" if name == "TensorFlow Serving, rows" else f"no-{id}"
                return Question(target, inputs, Refusal(invalid, text))
            case "width":
                width = int(self._random.choice(_WIDTHS))
                inputs[first] = inputs[first][:, :width]
                values = f"has {rows * width} values, expected 784"
                shape = f"has shape [{rows}, {width}], expected [-1, 784]"
                text = values if name.startswith("Seldon,") else shape
                return Question(target, inputs, Refusal(invalid, text))
            case "value":
                row, column = self._random.integers(rows), self._random.integers(width)
                value = self._random.integers(2, 1000)
                inputs[first][row, column] = value
                text = f"has the value {value}.0 at [{row}, {column}], expected 0 to 1"
                return Question(target, inputs, Refusal(invalid, text))
            case "rows":
                many = self._classified(int(self._random.integers(17, 41)))
                text = f"has {len(many.inputs[first])} instances, the limit is 16"
                return replace(many, expected=Refusal(invalid, text))
            case _:
                text = (
                    "is not a classifier" if name.startswith("Seldon,") else "has several tensors"
                )
                return replace(self._scaled(min(rows, 3)), expected=Refusal(invalid, text))


def _ask(gateway: Gateway, way: Way, question: Question, id: str) -> Prediction | Refusal:
    try:
        return gateway.send(way, question.target, question.inputs, id)
    except (
        AssertionError,
        LookupError,
        ValueError,
        OSError,
        http.client.HTTPException,
    ) as error:
        return Refusal(type(error).__name__, str(error))


def _problem(question: Question, id: str, outcome: Prediction | Refusal) -> str:
    """What is wrong with an outcome; "" if it is this request's own and right."""
    expected = question.expected
    if isinstance(expected, Refusal):
        if (
            isinstance(outcome, Refusal)
            and outcome.code == expected.code
            and expected.text in outcome.text
        ):
            return ""
        return f"{outcome}, expected {expected}"
    if isinstance(outcome, Refusal):
        return str(outcome)
    if outcome.id not in (None, id) or outcome.model not in (None, question.target.name):
        return f"the id is {outcome.id}, the model {outcome.model}"
    tolerance = 0 if "scaled" in expected else TOLERANCE
    for name, array in expected.items():
        found = outcome.outputs[name]
        if found.shape != array.shape or not np.abs(found - array).max() <= tolerance:
            return f"{name} is {found}, expected {array}"
    return ""
