"""The deep MNIST network that the original guide serves."""

from typing import Any

PARAMETERS = 3_274_634
DROPOUT = 0.5


def build_network() -> Any:
    """Build the untrained Keras model: float32 (batch, 784) to probabilities (batch, 10).

    Source: TensorFlow, "Deep MNIST for experts", 2016; with Keras's default initialisers.
    """
    import keras

    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((784,), name="instances"),
            layers.Reshape((28, 28, 1)),
            layers.Conv2D(32, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Conv2D(64, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(2),
            layers.Flatten(),
            layers.Dense(1024, activation="relu"),
            layers.Dropout(DROPOUT),
            layers.Dense(10, activation="softmax", name="probabilities"),
        ],
        name="deep_mnist",
    )
