import numpy as np

from model_training.evaluation import evaluate

LABELS = np.array([0, 1, 1, 9], np.uint8)
ANSWERS = np.eye(10, dtype=np.float32)[[0, 1, 7, 9]]


def test_answers_are_counted_by_label_and_prediction() -> None:
    result = evaluate(ANSWERS, LABELS)
    assert (result.digits, result.correct, result.accuracy) == (4, 3, 0.75)
    assert result.confusion[1, 7] == 1
    assert result.confusion.sum() == 4
    assert result.wrong == ((2, 1, 7),)


def test_class_accuracy_is_about_the_digits_that_show_it() -> None:
    result = evaluate(ANSWERS, LABELS)
    assert [result.class_accuracy(label) for label in (0, 1, 2, 9)] == [1, 0.5, None, 1]
