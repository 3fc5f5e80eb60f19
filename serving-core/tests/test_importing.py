"""Imports of what TensorFlow and Keras write; those of other kinds: deploy's model commands."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from serving_core import ModelFolderInvalid, load_predictor
from serving_core.importing import ImportOptions, import_model

pytestmark = [pytest.mark.tensorflow, pytest.mark.timeout(300)]

# TensorFlow runs in processes of its own.
MAKE = """
import sys
from pathlib import Path
import keras
import tensorflow as tf

folder = Path(sys.argv[1])
keras.utils.set_random_seed(1)
inputs = {"a": keras.Input((3,), name="a"), "b": keras.Input((2, 2), name="b")}
joined = keras.layers.Concatenate()([inputs["a"], keras.layers.Flatten()(inputs["b"])])
outputs = {"wide": keras.layers.Dense(5, name="wide")(joined),
           "narrow": keras.layers.Dense(1, name="narrow")(joined)}
keras.Model(inputs, outputs).save(folder / "two.keras")
plain = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="softmax")])
plain.save(folder / "plain.h5")
plain.export(folder / "plain", verbose=False)

@keras.saving.register_keras_serializable()
class Own(keras.layers.Layer):
    def call(self, x):
        return x
keras.Sequential([keras.Input((4,)), Own()]).save(folder / "own.keras")

class Texts(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="text")])
    def upper(self, text):
        return {"upper": tf.strings.upper(text), "length": tf.strings.length(text)}

    @tf.function(input_signature=[tf.TensorSpec(None, tf.float32, name="x")])
    def twice(self, x):
        return {"twice": 2 * x}
texts = Texts()
signatures = {"upper": texts.upper, "twice": texts.twice}
tf.saved_model.save(texts, folder / "texts", signatures=signatures)

@tf.function(input_signature=[tf.TensorSpec([1, 4, 4, 1])])
def flat(x):  # its Reshape holds the batch size 1
    return {"y": tf.reshape(x, [1, 16]) @ tf.ones([16, 2])}

def convert(function, name, prepare=lambda converter: None):
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()])
    prepare(converter)
    (folder / name).write_bytes(converter.convert())

def float16(converter):
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]

def uint8(converter):
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([tf.fill([1, 4, 4, 1], n / 8)] for n in range(9))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8

@tf.function(input_signature=[tf.TensorSpec([None, 4, 4, 1])])
def sums(x):
    return {"y": tf.reduce_sum(x, [1, 2])}
convert(flat, "flat.tflite")
convert(sums, "sums16.tflite", float16)
convert(sums, "sums8.tflite", uint8)
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    subprocess.run([sys.executable, "-c", MAKE, str(folder)], check=True, timeout=200)
    return folder


def shapes(folder: Path) -> dict[str, list[object]]:
    document = json.loads((folder / "model.json").read_text())
    return {
        tensor["name"]: [tensor["datatype"], *tensor["shape"]]
        for kind in ("inputs", "outputs")
        for tensor in document[kind]
    }


def test_a_keras_file_of_several_inputs(sources: Path, tmp_path: Path) -> None:
    imported = import_model(sources / "two.keras", tmp_path / "two", ImportOptions())
    assert imported.description["batched"]
    assert shapes(tmp_path / "two") == {
        "a": ["FP32", -1, 3],
        "b": ["FP32", -1, 2, 2],
        "wide": ["FP32", -1, 5],
        "narrow": ["FP32", -1, 1],
    }
    # An export differs each time, the same import does not.
    again = import_model(sources / "two.keras", tmp_path / "two", ImportOptions())
    assert again.trial is None


def test_an_h5_file_is_a_classifier(sources: Path, tmp_path: Path) -> None:
    options = ImportOptions(classes=("cat", "dog"))
    imported = import_model(sources / "plain.h5", tmp_path / "plain", options)
    assert imported.description["classes"] == ["cat", "dog"]
    assert imported.trial is not None
    assert [value["probabilities"] for value in imported.trial["values"].values()] == [True]


def test_a_layer_of_the_callers_own_code_is_refused(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFolderInvalid, match=r"Keras cannot load .*own\.keras: TypeError"):
        import_model(sources / "own.keras", tmp_path / "own", ImportOptions())
    assert not list(tmp_path.iterdir())


def test_several_signatures_are_listed(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelFolderInvalid, match=r"signatures .*upper.*; choose one with --sig"):
        import_model(sources / "texts", tmp_path / "texts", ImportOptions())
    import_model(sources / "texts", tmp_path / "upper", ImportOptions(signature="upper"))
    assert shapes(tmp_path / "upper") == {
        "text": ["BYTES", -1],
        "upper": ["BYTES", -1],
        "length": ["INT32", -1],
    }
    with pytest.raises(ModelFolderInvalid, match="x has any number of dimensions; declare"):
        import_model(sources / "texts", tmp_path / "twice", ImportOptions(signature="twice"))
    options = ImportOptions(signature="twice", inputs=(("x", "FP32", (-1, 3)),))
    import_model(sources / "texts", tmp_path / "twice", options)
    assert shapes(tmp_path / "twice")["twice"] == ["FP32", -1, 3]


def test_a_saved_model_alone_serves(sources: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from serving_core import load_predictor; "
        "info = load_predictor(Path(sys.argv[1])).info; "
        "print(info.name, info.engine, [spec.shape for spec in info.signature.outputs])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(sources / "plain")],
        check=True,
        timeout=100,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "plain tensorflow [(-1, 2)]"


def test_a_file_that_holds_a_batch_of_one_is_served_by_ones(sources: Path, tmp_path: Path) -> None:
    imported = import_model(sources / "flat.tflite", tmp_path / "flat", ImportOptions())
    assert not imported.description["batched"]
    assert shapes(tmp_path / "flat") == {"x": ["FP32", 1, 4, 4, 1], "Identity": ["FP32", 1, 2]}
    outputs = load_predictor(tmp_path / "flat").predict({"x": np.ones((1, 4, 4, 1), np.float32)})
    assert outputs["Identity"].tolist() == [[16, 16]]


@pytest.mark.parametrize("name", ["sums16", "sums8"])
def test_smaller_weights_and_integers_take_float32(
    sources: Path, tmp_path: Path, name: str
) -> None:
    import_model(sources / f"{name}.tflite", tmp_path / name, ImportOptions())
    assert shapes(tmp_path / name) == {"x": ["FP32", -1, 4, 4, 1], "Identity": ["FP32", -1, 1]}
    x = np.linspace(0, 1, 5 * 16, dtype=np.float32).reshape(5, 4, 4, 1)
    outputs = load_predictor(tmp_path / name).predict({"x": x})
    assert outputs["Identity"].ravel() == pytest.approx(x.sum((1, 2, 3)), abs=0.2)
