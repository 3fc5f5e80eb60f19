import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from polling import eventually
from serving_core import (
    DeadlinePassed,
    InvalidInput,
    MicroBatcher,
    ModelInfo,
    PredictorFailed,
    PredictorNotReady,
    QueueFull,
    Signature,
    Tensors,
    TensorSpec,
    load_predictor,
)
from serving_core.batching import Computed
from serving_core.digits import held_out
from serving_core.testing import FakePredictor, Submission, expected_scores

RELEASED = Path(__file__).parents[2] / "models" / "deep_mnist" / "1"


def instances(count: int, seed: int = 7) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((count, 784), dtype=np.float32)


@pytest.fixture
def predictor() -> FakePredictor:
    return FakePredictor()


@pytest.fixture
def batcher(predictor: FakePredictor) -> Iterator[MicroBatcher]:
    batcher = MicroBatcher(predictor, max_queue=64)
    batcher.start()
    yield batcher
    predictor.gate.set()
    assert batcher.close()


def occupy(batcher: MicroBatcher, predictor: FakePredictor) -> Submission:
    """Keep the engine computing until the predictor's gate is set."""
    predictor.gate.clear()
    first = Submission(batcher, instances(1)[0])
    eventually(lambda: predictor.computing and batcher.queued == 0)
    return first


def test_each_caller_gets_its_own_answer(batcher: MicroBatcher, predictor: FakePredictor) -> None:
    tagged = instances(2000)
    with ThreadPoolExecutor(32) as callers:
        answers = list(callers.map(lambda row: Submission(batcher, row).scores(), tagged))
    for instance, scores in zip(tagged, answers, strict=True):
        assert np.array_equal(scores, [expected_scores(instance)])
    assert max(predictor.batches) > 1
    assert sum(predictor.batches) == 2000


def test_requests_that_wait_share_the_next_call(
    batcher: MicroBatcher, predictor: FakePredictor
) -> None:
    occupy(batcher, predictor)
    others = [Submission(batcher, row) for row in instances(11)]
    predictor.gate.set()
    answers = [other.result() for other in others]
    assert predictor.batches == [1, 11]
    assert {answer.batch_size for answer in answers} == {11}


def test_a_full_queue_refuses_at_once(predictor: FakePredictor) -> None:
    batcher = MicroBatcher(predictor, max_queue=2)
    batcher.start()
    waiting = [occupy(batcher, predictor)]
    waiting += [Submission(batcher, row) for row in instances(2)]
    with pytest.raises(QueueFull, match="2 requests, the limit"):
        Submission(batcher, instances(1)[0])
    predictor.gate.set()
    assert all(one.result() for one in waiting)
    assert batcher.close()


def test_an_expired_request_is_never_computed(
    batcher: MicroBatcher, predictor: FakePredictor
) -> None:
    busy = occupy(batcher, predictor)
    late = Submission(batcher, instances(1)[0], timeout_s=0.02)
    began = time.perf_counter()
    eventually(lambda: time.perf_counter() - began > 0.03)
    predictor.gate.set()
    with pytest.raises(DeadlinePassed, match="passed while the request was queued"):
        late.result()
    busy.result()
    assert Submission(batcher, instances(1)[0]).result().batch_size == 1
    assert sum(predictor.batches) == 2


def test_a_deadline_in_the_past_is_refused(batcher: MicroBatcher) -> None:
    with pytest.raises(DeadlinePassed, match="had passed when the request arrived"):
        Submission(batcher, instances(1)[0], timeout_s=0.0)


def test_a_failing_engine_fails_its_batch_and_serves_on(
    batcher: MicroBatcher, predictor: FakePredictor
) -> None:
    predictor.failure = RuntimeError("secret detail of the engine")
    with pytest.raises(PredictorFailed, match=r"^the model failed on this input$"):
        Submission(batcher, instances(1)[0]).result()
    predictor.failure = None
    assert Submission(batcher, instances(1)[0]).result().batch_size == 1


def test_a_request_that_fails_in_a_joined_batch_fails_alone(
    batcher: MicroBatcher, predictor: FakePredictor
) -> None:
    class Choosy(FakePredictor):
        def scores(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
            scores = super().scores(rows)
            if rows.min() < 0:
                raise Refused(-1, "a row is negative")
            return scores

    class Refused(InvalidInput):
        def __init__(self, code: int, message: str) -> None:  # not the base's arguments
            super().__init__(message)
            self.code = code

    choosy = Choosy()
    batcher = MicroBatcher(choosy)
    batcher.start()
    occupy(batcher, choosy)
    good = [Submission(batcher, row) for row in instances(3)]
    bad = Submission(batcher, -instances(1)[0])
    choosy.gate.set()
    with pytest.raises(Refused, match="a row is negative"):
        bad.result()
    for row, one in zip(instances(3), good, strict=True):
        assert np.array_equal(one.scores(), [expected_scores(row)])
    assert choosy.batches == [1, 4, 1, 1, 1, 1]
    assert batcher.close()


def test_an_engine_that_answers_too_few_rows_is_called_for_each_request() -> None:
    class ShortPredictor(FakePredictor):
        def scores(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
            scores = super().scores(rows)
            return scores[:-1] if len(scores) > 1 else scores

    short = ShortPredictor()
    batcher = MicroBatcher(short)
    batcher.start()
    first = occupy(batcher, short)
    others = [Submission(batcher, row) for row in instances(2)]
    pair = Submission(batcher, instances(2))
    short.gate.set()
    with pytest.raises(PredictorFailed, match="1 rows of probabilities, expected 2"):
        pair.result()
    assert [one.result().batch_size for one in [first, *others]] == [1, 1, 1]
    assert batcher.ready
    assert batcher.close()


def test_a_score_that_is_not_finite_is_the_callers_mistake_and_only_its_own() -> None:
    batcher = MicroBatcher(load_predictor(RELEASED))
    batcher.start()
    digit = held_out().images[0]
    huge = np.full(784, 3e38, np.float32)
    answers = [Submission(batcher, row) for row in [huge, digit] * 20]
    for answer in answers[0::2]:
        with pytest.raises(InvalidInput, match="too large for the model"):
            answer.result()
    assert all(np.isfinite(answer.scores()).all() for answer in answers[1::2])
    assert batcher.close()


def test_times_are_where_they_were_spent(batcher: MicroBatcher, predictor: FakePredictor) -> None:
    first = occupy(batcher, predictor)
    second = Submission(batcher, instances(1)[0])
    held = time.perf_counter()
    eventually(lambda: time.perf_counter() - held > 0.05)
    predictor.gate.set()
    assert first.result().compute_s >= 0.05
    assert second.result().queue_s >= 0.05


def test_not_started_is_not_ready(predictor: FakePredictor) -> None:
    batcher = MicroBatcher(predictor)
    assert not batcher.ready
    with pytest.raises(PredictorNotReady):
        Submission(batcher, instances(1)[0])
    assert batcher.close()


def test_close_answers_what_waits_and_refuses_the_rest(predictor: FakePredictor) -> None:
    batcher = MicroBatcher(predictor)
    batcher.start()
    assert batcher.ready
    first = occupy(batcher, predictor)
    waiting = [Submission(batcher, row) for row in instances(6)]
    assert not batcher.close(timeout_s=0.01)
    assert not batcher.ready
    with pytest.raises(PredictorNotReady):
        Submission(batcher, instances(1)[0])
    predictor.gate.set()
    assert all(one.result().batch_size for one in [first, *waiting])
    assert batcher.close()
    assert batcher.close()


def test_requests_of_several_rows_are_joined_up_to_the_maximum_batch_size(
    batcher: MicroBatcher, predictor: FakePredictor
) -> None:
    first = occupy(batcher, predictor)
    sizes = (1, 3, 12, 1, 16, 9, 8, 2)
    waiting = [Submission(batcher, instances(size, seed=size)) for size in sizes]
    predictor.gate.set()
    answers = [one.result() for one in [first, *waiting]]
    assert predictor.batches == [1, 16, 1, 16, 9, 10]
    assert [one.batch_size for one in answers] == [1, 16, 16, 16, 1, 16, 9, 10, 10]
    for size, one in zip(sizes, waiting, strict=True):
        expected = np.apply_along_axis(expected_scores, -1, instances(size, seed=size))
        assert np.array_equal(one.scores(), expected)


@pytest.mark.parametrize("rows", [17, 32, 100])
def test_a_request_of_more_rows_is_computed_in_parts_with_others_between(
    batcher: MicroBatcher, predictor: FakePredictor, rows: int
) -> None:
    occupy(batcher, predictor)
    many = Submission(batcher, instances(rows))
    other = Submission(batcher, instances(1, seed=1)[0])
    predictor.gate.set()
    assert np.array_equal(many.scores(), np.apply_along_axis(expected_scores, -1, instances(rows)))
    assert other.scores().shape == (1, 10)
    assert max(predictor.batches) == 16
    assert sum(predictor.batches) == rows + 2


def test_a_request_of_more_parts_than_the_queue_holds_is_never_served(
    predictor: FakePredictor,
) -> None:
    batcher = MicroBatcher(predictor, max_queue=2)
    batcher.start()
    with pytest.raises(InvalidInput, match="has 33 rows, the limit is 32"):
        Submission(batcher, instances(33))
    assert Submission(batcher, instances(32)).scores().shape == (32, 10)
    assert predictor.batches == [16, 16]
    assert batcher.close()


def test_a_part_that_expires_fails_the_request(
    batcher: MicroBatcher, predictor: FakePredictor
) -> None:
    occupy(batcher, predictor)
    late = Submission(batcher, instances(40), timeout_s=0.02)
    began = time.perf_counter()
    eventually(lambda: time.perf_counter() - began > 0.03)
    predictor.gate.set()
    with pytest.raises(DeadlinePassed):
        late.result()
    assert predictor.batches == [1]


def test_no_answer_of_several_instances_goes_astray(batcher: MicroBatcher) -> None:
    rng = np.random.default_rng(3)
    asked = [instances(int(size), seed=n) for n, size in enumerate(rng.integers(1, 6, 1000))]
    with ThreadPoolExecutor(16) as callers:
        answers = list(callers.map(lambda rows: Submission(batcher, rows).scores(), asked))
    for rows, scores in zip(asked, answers, strict=True):
        assert np.array_equal(scores, np.apply_along_axis(expected_scores, -1, rows))


def test_one_of_several_that_the_model_cannot_score_refuses_the_request() -> None:
    batcher = MicroBatcher(load_predictor(RELEASED))
    batcher.start()
    rows = np.stack([*held_out().images[:2], np.full(784, 3e38, np.float32)])
    with pytest.raises(InvalidInput, match="too large for the model"):
        Submission(batcher, rows).result()
    assert Submission(batcher, rows[:2]).scores().shape == (2, 10)
    assert batcher.close()


class Doubling:
    """Returns twice its input, of any width; records the shapes of its calls."""

    def __init__(self, batched: bool) -> None:
        self.info = ModelInfo(
            "doubling",
            "1",
            "fake",
            Signature(
                (TensorSpec("x", "INT64", (-1, -1)),),
                (TensorSpec("y", "INT64", (-1, -1)),),
                batched=batched,
            ),
        )
        self.shapes: list[tuple[int, ...]] = []

    def predict(self, inputs: Tensors) -> Tensors:
        x = inputs["x"]
        self.shapes.append(x.shape)
        return {"y": np.concatenate([x, x])[: len(x)] * np.int64(2)}


def run_all(batcher: MicroBatcher, arrays: list[NDArray[np.int64]]) -> list[object]:
    """Enqueue all before the engine runs, then run it."""
    outcomes: list[object] = [None] * len(arrays)
    batcher.start(lambda: None)
    for place, array in enumerate(arrays):
        batcher.enqueue({"x": array}, len(array), partial(outcomes.__setitem__, place))
    while batcher.run_batch():
        pass
    return outcomes


def test_only_requests_whose_shapes_agree_share_a_call() -> None:
    model = Doubling(batched=True)
    widths = [3, 3, 2, 2, 3]
    arrays = [np.full((1, width), place) for place, width in enumerate(widths)]
    outcomes = run_all(MicroBatcher(model), arrays)
    assert model.shapes == [(2, 3), (2, 2), (1, 3)]
    for array, outcome in zip(arrays, outcomes, strict=True):
        assert isinstance(outcome, Computed)
        assert np.array_equal(outcome.outputs["y"], 2 * array)


def test_requests_of_a_model_without_a_batch_are_computed_one_by_one() -> None:
    model = Doubling(batched=False)
    arrays = [np.full((size, 2), size) for size in (1, 2, 40)]
    batcher = MicroBatcher(model)
    outcomes: list[object] = []
    batcher.start(lambda: None)
    for array in arrays:
        batcher.enqueue({"x": array}, 1, outcomes.append)
    while batcher.run_batch():
        pass
    assert model.shapes == [(1, 2), (2, 2), (40, 2)]
    assert all(isinstance(outcome, Computed) for outcome in outcomes)


class Widening(Doubling):
    """Its output is as wide as its call is late."""

    def predict(self, inputs: Tensors) -> Tensors:
        self.shapes.append(inputs["x"].shape)
        return {"y": np.zeros((len(inputs["x"]), len(self.shapes)), np.int64)}


def test_parts_whose_outputs_differ_fail_the_request_and_nothing_else() -> None:
    batcher = MicroBatcher(Widening(batched=True))
    outcomes = run_all(batcher, [np.zeros((40, 2), np.int64), np.zeros((1, 2), np.int64)])
    assert isinstance(outcomes[0], PredictorFailed)
    assert "parts differ in shape" in str(outcomes[0])
    assert isinstance(outcomes[1], Computed)


def test_a_receiver_that_fails_does_not_end_the_engine_thread(
    batcher: MicroBatcher, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(outcome: object) -> None:
        raise RuntimeError("broken receiver")

    batcher.enqueue({"instances": instances(1)}, 1, fail)
    assert Submission(batcher, instances(1)[0]).scores().shape == (1, 10)
    assert batcher.ready
    assert "a request could not be completed" in caplog.text
