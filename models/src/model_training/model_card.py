"""The model card, rendered from model.json."""

from typing import Any

from model_training.evaluation import Evaluation
from model_training.network import PARAMETERS


def card(description: dict[str, Any], evaluation: Evaluation) -> str:
    """Render the card of a trained model.

    Args:
        description: The content of model.json.
        evaluation: Of the test digits, or of the held-out ones without a test set.

    Returns:
        Markdown.
    """
    trained = description["trained"]
    recipe = trained["recipe"]
    distortion = recipe["augmentation"]
    return f"""{_input_and_output(description)} The folder holds
the same weights twice: `model.tflite` for LiteRT and `saved_model/` for TensorFlow. On the held-out
digits their probabilities differ by 1e-5 at most.

## Network

{_network(description)}

## Training

- Digits: {trained["digits"]:,} ({trained["data"]}). The 200 held-out digits that tests and load
  tests send are removed, compared by their bytes.
- Augmentation: every epoch sees each digit once, with a new random distortion: rotation up to
  {distortion["rotation_degrees"]} degrees, scaling up to {distortion["scaling"]:.0%}, shear up to
  {distortion["shear"]:.0%}, shift up to {distortion["shift_px"]:g} pixels, and elastic distortion
  (Simard et al., 2003; sigma {distortion["elastic_sigma_px"]:g} pixels, strength
  {distortion["elastic_strength"]:g}).
- Optimiser: {recipe["optimizer"]}, epochs: {trained["epochs"]}, batch: {recipe["batch_size"]};
  learning rate {recipe["learning_rate"]} with warm-up over one epoch and cosine decay; weight
  decay {recipe["weight_decay"]}; label smoothing {recipe["label_smoothing"]}.
- The released weights are the exponential moving average (decay {recipe["average_decay"]}).
- Seed {trained["seed"]}, {trained["framework"]}, {trained["date"]}.

Model selection: none. A training produces one network with fixed hyperparameters, validated
on held-back training digits (`--validate`). The test set is scored once, after training. Its only
use is to decide whether the model may replace an older one.

{_accuracy(description, evaluation)}

{_LIMITS}

{_LICENCE}

## Reproduce

    make train DATA=train.npz TEST=test.npz OUTPUT=models/deep_mnist/{description["version"]}

Each file holds the arrays `images` (uint8, n x 28 x 28) and `labels`. The same seed gives the same
order and distortions. Rounding of the weights depends on the machine.
"""


def quantized_card(description: dict[str, Any], evaluation: Evaluation) -> str:
    """Render the card of a quantized model.

    Args:
        description: The content of model.json, with `quantized`.
        evaluation: Of the test digits.

    Returns:
        Markdown.
    """
    original = description["quantized"]["from"]["version"]
    difference = description["quantized"]["difference"]
    versions, version = f"models/{description['name']}", description["version"]
    return f"""{_input_and_output(description)} The folder holds
`model.tflite` for LiteRT only: TensorFlow has no int8 weights of this kind.

## Network

{_network(description)}

## Weights

Dynamic-range quantization of [version {original}](../{original}/README.md), without retraining:
int8 weights with a float32 scale per output channel, a quarter of the bytes. LiteRT quantizes the
activations of each image to int8 as well.

The probabilities differ from those of version {original}. Absolute difference, over all classes:

| Digits | Maximum | Mean | Different class |
| --- | --- | --- | --- |
{_difference_row("test set", difference["test"])}
{_difference_row("held-out digits", difference["held_out"])}

It is not the default: a deployment serves it only by name.

{_accuracy(description, evaluation)}

{_LIMITS}

{_LICENCE}

## Reproduce

    make quantize MODEL={versions}/{original} TEST=test.npz OUTPUT={versions}/{version}

`TEST` is the test set of version {original}. The command fails if the accuracy on it drops by more
than 0.05 percentage points.
"""


_LIMITS = """## Limitations

- The model has no class for other images. It returns ten probabilities for any input, and they are
  not calibrated for images that show no digit.
- It expects MNIST's framing: one digit of about 20 x 20 pixels, centred by mass, light on dark.
- Values rounded to two decimals are precise enough. Values in 0 to 255 are out of range, and the
  model cannot detect them.
- MNIST's writers were employees of the US Census Bureau and students, about 1990. Other styles,
  such as a 1 with a long upstroke or a crossed 7, may be rarer in it than elsewhere."""

_LICENCE = """## Data and licence

The model is licensed under Apache-2.0. Training and test digits: Y. LeCun, C. Cortes,
C. J. C. Burges, "The MNIST database of handwritten digits", stated to be available under
CC BY-SA 3.0; the repository's NOTICE says by whom. The digits are not part of this folder."""


def _input_and_output(description: dict[str, Any]) -> str:
    return f"""# {description["name"]}, version {description["version"]}

Classifies a handwritten digit in a 28 x 28 image: one probability for each class "0" to "9".

## Input and output

784 float32 values in [0, 1] (byte / 255), row-major, bright ink on a dark background, the digit
centred as in MNIST. The output is ten probabilities that sum to 1."""


def _network(description: dict[str, Any]) -> str:
    dropout = description["trained"]["recipe"]["dropout"]
    return f"""Convolution 5x5x32, max pooling, convolution 5x5x64, max pooling, dense 1024,
dropout {dropout} in training, dense 10 with softmax: {PARAMETERS:,} parameters. It is the network
of the TensorFlow tutorial "Deep MNIST for experts"."""


def _difference_row(name: str, apart: dict[str, Any]) -> str:
    largest, mean = apart["largest"], apart["mean"]
    return f"| {name} | {largest:.4f} | {mean:.6f} | {apart['other_digit']} |"


def _accuracy(description: dict[str, Any], evaluation: Evaluation) -> str:
    accuracy = description["accuracy"]
    evaluated = "the test set" if accuracy["test"] else "the 200 held-out digits"
    return f"""## Accuracy

| Digits | Correct | Accuracy |
| --- | --- | --- |
{_rows(accuracy)}

{_misclassified(accuracy["held_out"]["wrong"])}

Per class, on {evaluated}:

| Digit | {" | ".join(str(label) for label in range(10))} |
| --- | {" | ".join("---" for _ in range(10))} |
| Accuracy, % | {" | ".join(_per_cent(evaluation.class_accuracy(label)) for label in range(10))} |

Confusion matrix on {evaluated} (rows: labels; columns: predictions):

| | {" | ".join(str(label) for label in range(10))} |
| --- | {" | ".join("---" for _ in range(10))} |
{_confusion(evaluation)}"""


def _rows(accuracy: dict[str, Any]) -> str:
    names = (("test set", accuracy["test"]), ("held-out digits", accuracy["held_out"]))
    return "\n".join(
        f"| {name} | {figures['correct']:,} of {figures['digits']:,} "
        f"| {100 * figures['accuracy']:.2f} % |"
        for name, figures in names
        if figures
    )


def _per_cent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f}"


def _misclassified(wrong: list[dict[str, int]]) -> str:
    if not wrong:
        return "No held-out digit is misclassified."
    if len(wrong) > 10:
        return f"{len(wrong)} held-out digits are misclassified; model.json lists them."
    return "Misclassified held-out digits:\n\n" + "\n".join(
        f"- index {miss['index']}: label {miss['label']}, prediction {miss['predicted']}"
        for miss in wrong
    )


def _confusion(evaluation: Evaluation) -> str:
    return "\n".join(
        f"| **{label}** | " + " | ".join(str(count) for count in evaluation.confusion[label]) + " |"
        for label in range(10)
    )
