import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from polling import eventually
from serving_core import (
    DeadlinePassed,
    InvalidInstances,
    MicroBatcher,
    PredictorFailed,
    PredictorNotReady,
    QueueFull,
    load_predictor,
)
from serving_core.digits import held_out
from serving_core.testing import FakePredictor, expected_scores

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


def test_each_caller_gets_its_own_answer(batcher: MicroBatcher, predictor: FakePredictor) -> None:
    tagged = instances(2000)
    with ThreadPoolExecutor(32) as callers:
        answers = list(callers.map(batcher.submit, tagged))
    for instance, answer in zip(tagged, answers, strict=True):
        assert np.array_equal(answer.scores, expected_scores(instance))
    assert max(predictor.batches) > 1
    assert sum(predictor.batches) == 2000


def test_requests_that_wait_share_the_next_call(
    batcher: MicroBatcher, predictor: FakePredictor
) -> None:
    predictor.gate.clear()
    with ThreadPoolExecutor(12) as callers:
        first = callers.submit(batcher.submit, instances(1)[0])
        eventually(lambda: predictor.computing and batcher.queued == 0 and not first.done())
        others = [callers.submit(batcher.submit, row) for row in instances(11)]
        eventually(lambda: batcher.queued == 11)
        predictor.gate.set()
        answers = [other.result(10) for other in others]
    assert predictor.batches == [1, 11]
    assert {answer.batch_size for answer in answers} == {11}


def test_a_full_queue_refuses_at_once(predictor: FakePredictor) -> None:
    batcher = MicroBatcher(predictor, max_queue=2)
    batcher.start()
    predictor.gate.clear()
    with ThreadPoolExecutor(3) as callers:
        waiting = [callers.submit(batcher.submit, instances(1)[0])]
        eventually(lambda: predictor.computing and batcher.queued == 0)
        waiting += [callers.submit(batcher.submit, row) for row in instances(2)]
        eventually(lambda: batcher.queued == 2)
        with pytest.raises(QueueFull, match="2 requests, the limit"):
            batcher.submit(instances(1)[0])
        predictor.gate.set()
        assert all(future.result(10) for future in waiting)
    assert batcher.close()


def test_an_expired_request_is_never_computed(
    batcher: MicroBatcher, predictor: FakePredictor
) -> None:
    predictor.gate.clear()
    with ThreadPoolExecutor(1) as caller:
        busy = caller.submit(batcher.submit, instances(1)[0])
        eventually(lambda: predictor.computing and batcher.queued == 0)
        with pytest.raises(DeadlinePassed, match=r"within the deadline of 0\.020 s"):
            batcher.submit(instances(1)[0], timeout_s=0.02)
        predictor.gate.set()
        busy.result(10)
    answer = batcher.submit(instances(1)[0])
    assert answer.batch_size == 1
    assert sum(predictor.batches) == 2


def test_a_deadline_in_the_past_is_refused(batcher: MicroBatcher) -> None:
    with pytest.raises(DeadlinePassed, match="had passed when the request arrived"):
        batcher.submit(instances(1)[0], timeout_s=0.0)


def test_a_failing_engine_fails_its_batch_and_serves_on(
    batcher: MicroBatcher, predictor: FakePredictor
) -> None:
    predictor.failure = RuntimeError("secret detail of the engine")
    with pytest.raises(PredictorFailed, match=r"^the model failed on this instance$"):
        batcher.submit(instances(1)[0])
    predictor.failure = None
    assert batcher.submit(instances(1)[0]).batch_size == 1


def test_an_engine_that_answers_too_few_fails_its_batch_and_serves_on() -> None:
    class ShortPredictor(FakePredictor):
        def predict(self, instances: NDArray[np.float32]) -> NDArray[np.float32]:
            scores = super().predict(instances)
            return scores[:-1] if len(scores) > 1 else scores

    short = ShortPredictor()
    batcher = MicroBatcher(short)
    batcher.start()
    short.gate.clear()
    with ThreadPoolExecutor(4) as callers:
        first = callers.submit(batcher.submit, instances(1)[0])
        eventually(lambda: short.computing and batcher.queued == 0 and not first.done())
        others = [callers.submit(batcher.submit, row) for row in instances(2)]
        eventually(lambda: batcher.queued == 2)
        short.gate.set()
        for other in others:
            with pytest.raises(PredictorFailed):
                other.result(10)
        assert first.result(10).batch_size == 1
    assert batcher.ready
    assert batcher.submit(instances(1)[0]).batch_size == 1
    assert batcher.close()


def test_a_score_that_is_not_finite_is_the_callers_mistake_and_only_its_own() -> None:
    batcher = MicroBatcher(load_predictor(RELEASED))
    batcher.start()
    digit = held_out().images[0]
    huge = np.full(784, 3e38, np.float32)
    with ThreadPoolExecutor(8) as callers:
        answers = [callers.submit(batcher.submit, row) for row in [huge, digit] * 20]
        for answer in answers[0::2]:
            with pytest.raises(InvalidInstances, match="too large for the model"):
                answer.result(10)
        assert all(np.isfinite(answer.result(10).scores).all() for answer in answers[1::2])
    assert batcher.close()


def test_times_are_where_they_were_spent(batcher: MicroBatcher, predictor: FakePredictor) -> None:
    predictor.gate.clear()
    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(batcher.submit, instances(1)[0])
        eventually(lambda: predictor.computing and batcher.queued == 0)
        second = callers.submit(batcher.submit, instances(1)[0])
        eventually(lambda: batcher.queued == 1)
        held = time.perf_counter()
        eventually(lambda: time.perf_counter() - held > 0.05)
        predictor.gate.set()
        assert first.result(10).compute_s >= 0.05
        assert second.result(10).queue_s >= 0.05


def test_not_started_is_not_ready(predictor: FakePredictor) -> None:
    batcher = MicroBatcher(predictor)
    assert not batcher.ready
    with pytest.raises(PredictorNotReady):
        batcher.submit(instances(1)[0])
    assert batcher.close()


def test_close_answers_what_waits_and_refuses_the_rest(predictor: FakePredictor) -> None:
    batcher = MicroBatcher(predictor)
    batcher.start()
    assert batcher.ready
    predictor.gate.clear()
    with ThreadPoolExecutor(8) as callers:
        first = callers.submit(batcher.submit, instances(1)[0])
        eventually(lambda: predictor.computing and batcher.queued == 0)
        waiting = [callers.submit(batcher.submit, row) for row in instances(6)]
        eventually(lambda: batcher.queued == 6)
        assert not batcher.close(timeout_s=0.01)
        assert not batcher.ready
        with pytest.raises(PredictorNotReady):
            batcher.submit(instances(1)[0])
        predictor.gate.set()
        assert all(future.result(10).batch_size for future in [first, *waiting])
    assert batcher.close()
    assert batcher.close()


def test_several_instances_of_a_request_stay_together(
    batcher: MicroBatcher, predictor: FakePredictor
) -> None:
    predictor.gate.clear()
    sizes = (1, 1, 3, 2, 1, 1, 1)
    with ThreadPoolExecutor(len(sizes) + 1) as callers:
        first = callers.submit(batcher.submit, instances(1)[0])
        eventually(lambda: predictor.computing and batcher.queued == 0 and not first.done())
        waiting = []
        for place, size in enumerate(sizes):
            rows = instances(size, seed=place)
            waiting.append(callers.submit(batcher.submit, rows[0] if size == 1 else rows))
            eventually(lambda: batcher.queued == len(waiting))  # asked at once
        predictor.gate.set()
        answers = [one.result(10) for one in waiting]
    # Alone ones share a call, in order; those that came together have one of their own.
    assert predictor.batches == [1, 2, 3, 2, 3]
    assert [one.batch_size for one in answers] == [2, 2, 3, 2, 3, 3, 3]


def test_no_answer_of_several_instances_goes_astray(batcher: MicroBatcher) -> None:
    rng = np.random.default_rng(3)
    asked = [instances(int(size), seed=n) for n, size in enumerate(rng.integers(1, 6, 1000))]
    asked = [rows[0] if len(rows) == 1 else rows for rows in asked]
    with ThreadPoolExecutor(16) as callers:
        answers = list(callers.map(batcher.submit, asked))
    for rows, answer in zip(asked, answers, strict=True):
        expected = np.apply_along_axis(expected_scores, -1, rows)
        assert np.array_equal(answer.scores, expected)


def test_one_of_several_that_the_model_cannot_score_refuses_the_request() -> None:
    batcher = MicroBatcher(load_predictor(RELEASED))
    batcher.start()
    rows = np.stack([*held_out().images[:2], np.full(784, 3e38, np.float32)])
    with pytest.raises(InvalidInstances, match="too large for the model"):
        batcher.submit(rows)
    assert batcher.submit(rows[:2]).scores.shape == (2, 10)
    assert batcher.close()
