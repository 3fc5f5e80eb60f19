"""The model card: what a person should know before using the model, from its figures."""

from typing import Any

from model_training.evaluation import Evaluation
from model_training.network import PARAMETERS


def card(description: dict[str, Any], evaluation: Evaluation) -> str:
    """Write the card.

    Args:
        description: As in model.json.
        evaluation: The model's answers on the digits that the figures are about: the test set
            where there was one.

    Returns:
        Markdown.
    """
    trained = description["trained"]
    recipe = trained["recipe"]
    distortion = recipe["augmentation"]
    return f"""{_input_and_output(description)} Two forms of the same weights, equal within
1e-5: `model.tflite` for LiteRT and `saved_model/` for TensorFlow.

## Network

{_network(description)}

## Training

- Digits: {trained["digits"]:,} ({trained["data"]}). The 200 held-out digits that tests and load
  tests send had been taken out, by their bytes.
- Augmentation: every epoch sees each digit once, distorted anew: rotation up to
  {distortion["rotation_degrees"]} degrees, scaling up to {distortion["scaling"]:.0%}, shear up to
  {distortion["shear"]:.0%}, shift up to {distortion["shift_px"]:g} pixels, and elastic distortion
  (Simard et al., 2003; sigma {distortion["elastic_sigma_px"]:g} pixels, strength
  {distortion["elastic_strength"]:g}).
- Optimiser: {recipe["optimizer"]}, epochs: {trained["epochs"]}, batch: {recipe["batch_size"]};
  learning rate {recipe["learning_rate"]}, reached in one epoch, falling as a half cosine; weight
  decay {recipe["weight_decay"]}; label smoothing {recipe["label_smoothing"]}.
- Released is the running average of the weights (decay {recipe["average_decay"]}).
- Seed {trained["seed"]}, {trained["framework"]}, {trained["date"]}.

How it was selected: a training makes one network, by a fixed recipe, and there is no other to
prefer. The recipe is checked on training digits kept back for that (`--validate`). The test set,
where there is one, is scored once, after the training; it decides nothing but whether the model
may take the place of an older one.

{_accuracy(description, evaluation)}

{_LIMITS}

{_LICENCE}

## How to make it again

    make train DATA=train.npz TEST=test.npz OUTPUT=models/deep_mnist/{description["version"]}

with the arrays `images` (uint8, n x 28 x 28) and `labels` in each file. The same seed gives the
same order and distortions; the last digits of the weights depend on the machine.
"""


def quantized_card(description: dict[str, Any], evaluation: Evaluation) -> str:
    """Write the card of a model that is another one with smaller weights.

    Args:
        description: As in model.json, with `quantized`.
        evaluation: The model's answers on the test set.

    Returns:
        Markdown.
    """
    original = description["quantized"]["from"]["version"]
    difference = description["quantized"]["difference"]
    versions, version = f"models/{description['name']}", description["version"]
    return f"""{_input_and_output(description)} One form,
`model.tflite` for LiteRT: TensorFlow's own engine has no such weights.

## Network

{_network(description)}

## Weights

Those of [version {original}](../{original}/README.md), not trained again. Each is an int8 with a
float32 scale for its output channel instead of a float32 ("dynamic range"): a quarter of the bytes,
and sums of whole numbers, for which each image's activations are made int8 too.

Its answers are not those of version {original}. How far apart they are, of all ten probabilities:

| Digits | Largest difference | Mean difference | Another digit told |
| --- | --- | --- | --- |
{_difference_row("test set", difference["test"])}
{_difference_row("held-out digits", difference["held_out"])}

It is served where somebody names it, and nowhere else.

{_accuracy(description, evaluation)}

{_LIMITS}

{_LICENCE}

## How to make it again

    make quantize MODEL={versions}/{original} TEST=test.npz OUTPUT={versions}/{version}

with the test digits that version {original} was judged on. It is refused where it knows over 0.05
points less of them.
"""


_LIMITS = """## Limits

- It always answers: an image of something else gets ten probabilities too. They are not
  calibrated for such images, and a high one does not mean that there is a digit.
- It expects MNIST's framing: one digit, about 20 x 20 pixels, centred by its mass, light on dark.
- Values rounded to two decimals, as JSON often has them, are precise enough. Values in 0 to 255
  are wrong, and the model cannot tell.
- MNIST's writers were employees of the American census bureau and students, about 1990: other
  hands, such as a 1 with a long upstroke or a crossed 7, may be rarer in it than elsewhere."""

_LICENCE = """## Data and licence

Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits", CC BY-SA 3.0. The digits
are not part of this folder."""


def _input_and_output(description: dict[str, Any]) -> str:
    return f"""# {description["name"]}, version {description["version"]}

Recognises a handwritten digit in a 28 x 28 image: ten probabilities, one for each of "0" to "9".

## Input and output

784 float32 values in [0, 1] (byte / 255), row-major, ink bright on a dark background, the digit
centred as in MNIST. Ten probabilities that sum to 1."""


def _network(description: dict[str, Any]) -> str:
    dropout = description["trained"]["recipe"]["dropout"]
    return f"""Convolution 5x5x32, pooling, convolution 5x5x64, pooling, dense 1024, in training
dropout {dropout}, dense 10 with softmax: {PARAMETERS:,} parameters, the network of the
TensorFlow tutorial "Deep MNIST for experts"."""


def _difference_row(name: str, apart: dict[str, Any]) -> str:
    largest, mean = apart["largest"], apart["mean"]
    return f"| {name} | {largest:.4f} | {mean:.6f} | {apart['other_digit']} |"


def _accuracy(description: dict[str, Any], evaluation: Evaluation) -> str:
    accuracy = description["accuracy"]
    judged = "the test set" if accuracy["test"] else "the 200 held-out digits"
    return f"""## Accuracy

| Digits | Right | Accuracy |
| --- | --- | --- |
{_rows(accuracy)}

{_missed(accuracy["held_out"]["wrong"])}

Per class, on {judged}:

| Digit | {" | ".join(str(label) for label in range(10))} |
| --- | {" | ".join("---" for _ in range(10))} |
| % right | {" | ".join(_per_cent(evaluation.class_accuracy(label)) for label in range(10))} |

Confusion matrix on {judged} (row: what the digit shows; column: the model's answer):

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


def _missed(wrong: list[dict[str, int]]) -> str:
    if not wrong:
        return "Of the held-out digits it misses none."
    if len(wrong) > 10:
        return f"Of the held-out digits it misses {len(wrong)}; model.json names them."
    return "Of the held-out digits it misses\n" + "\n".join(
        f"- number {miss['index']}, which shows {miss['label']}: taken for {miss['predicted']}"
        for miss in wrong
    )


def _confusion(evaluation: Evaluation) -> str:
    return "\n".join(
        f"| **{label}** | " + " | ".join(str(count) for count in evaluation.confusion[label]) + " |"
        for label in range(10)
    )
