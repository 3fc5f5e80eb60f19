"""Export of a trained network as SavedModel and LiteRT file."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LITERT_FILE = "model.tflite"
SAVED_MODEL = "saved_model"


def export(network: Any, folder: Path) -> None:
    """Write the SavedModel and the LiteRT file of the same weights into `folder`.

    The SavedModel has one signature, `serving_default`: `instances` float32 (batch, 784) to
    `probabilities` (batch, 10). It contains plain TensorFlow operations and the weights, no
    Keras objects and no training state.
    """
    import tensorflow as tf

    module = _serving_module(network)
    signature = module.serve.get_concrete_function()
    tf.saved_model.save(
        module, str(folder / SAVED_MODEL), signatures={"serving_default": signature}
    )
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / SAVED_MODEL))
    (folder / LITERT_FILE).write_bytes(converter.convert())


def export_quantized(saved_model: Path, folder: Path) -> None:
    """Convert a SavedModel to a LiteRT file with int8 weights in `folder`."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
    # Without calibration data this is dynamic-range quantization: activations stay float32.
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    (folder / LITERT_FILE).write_bytes(converter.convert())


def litert_scores(folder: Path, instances: NDArray[np.float32]) -> NDArray[np.float32]:
    """Score instances (n, 784) with the LiteRT file: probabilities (n, 10)."""
    from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]

    interpreter = Interpreter(model_path=str(folder / LITERT_FILE), num_threads=1)
    (source,) = interpreter.get_input_details()
    (result,) = interpreter.get_output_details()
    interpreter.resize_tensor_input(source["index"], list(instances.shape))
    interpreter.allocate_tensors()
    interpreter.set_tensor(source["index"], instances)
    interpreter.invoke()
    scores: NDArray[np.float32] = interpreter.get_tensor(result["index"])
    return scores


def saved_model_scores(folder: Path, instances: NDArray[np.float32]) -> NDArray[np.float32]:
    """Score instances (n, 784) with the SavedModel: probabilities (n, 10)."""
    import tensorflow as tf

    model = tf.saved_model.load(str(folder / SAVED_MODEL))
    outputs = model.signatures["serving_default"](instances=tf.constant(instances))
    scores: NDArray[np.float32] = outputs["probabilities"].numpy()
    return scores


def checksums(folder: Path) -> dict[str, str]:
    """The sha256 of every model file, keyed by its path in the folder."""
    files = [folder / LITERT_FILE, *sorted((folder / SAVED_MODEL).rglob("*"))]
    return {
        file.relative_to(folder).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.is_file()
    }


def _serving_module(network: Any) -> Any:
    import tensorflow as tf

    names = ("kernel_1", "bias_1", "kernel_2", "bias_2", "dense_1", "bias_3", "dense_2", "bias_4")
    module = tf.Module(name="deep_mnist")
    for name, weight in zip(names, network.get_weights(), strict=True):
        setattr(module, name, tf.Variable(weight, trainable=False, name=name))

    @tf.function(input_signature=[tf.TensorSpec((None, 784), tf.float32, name="instances")])  # type: ignore[untyped-decorator]
    def serve(instances: Any) -> dict[str, Any]:
        x = tf.reshape(instances, (-1, 28, 28, 1))
        x = tf.nn.relu(tf.nn.conv2d(x, module.kernel_1, 1, "SAME") + module.bias_1)
        x = tf.nn.max_pool2d(x, 2, 2, "SAME")
        x = tf.nn.relu(tf.nn.conv2d(x, module.kernel_2, 1, "SAME") + module.bias_2)
        x = tf.nn.max_pool2d(x, 2, 2, "SAME")
        x = tf.reshape(x, (-1, 7 * 7 * 64))
        x = tf.nn.relu(x @ module.dense_1 + module.bias_3)
        return {"probabilities": tf.nn.softmax(x @ module.dense_2 + module.bias_4)}

    module.serve = serve
    return module
