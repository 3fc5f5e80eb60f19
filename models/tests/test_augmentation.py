import numpy as np

from model_training.augmentation import distort
from serving_core.digits import held_out

IMAGES = held_out().images.reshape(-1, 28, 28)


def test_shape_type_and_range_stay() -> None:
    distorted = distort(IMAGES, np.random.default_rng(1))
    assert distorted.shape == IMAGES.shape
    assert distorted.dtype == np.float32
    assert distorted.min() >= 0
    assert distorted.max() <= 1


def test_the_same_generator_distorts_alike_and_another_does_not() -> None:
    first = distort(IMAGES, np.random.default_rng(1))
    assert np.array_equal(first, distort(IMAGES, np.random.default_rng(1)))
    assert not np.array_equal(first, distort(IMAGES, np.random.default_rng(2)))


def test_each_copy_of_an_image_is_distorted_in_its_own_way() -> None:
    copies = distort(np.repeat(IMAGES[:1], 5, axis=0), np.random.default_rng(1))
    assert len({copy.tobytes() for copy in copies}) == 5


def test_the_ink_stays_within_the_limits() -> None:
    ink = IMAGES.sum(axis=(1, 2))
    change = distort(IMAGES, np.random.default_rng(1)).sum(axis=(1, 2)) / ink
    assert 0.6 < change.min() < 1 < change.max() < 1.6
