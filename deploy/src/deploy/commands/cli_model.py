"""`seldon-cli model`: make model folders and show them."""

import json
from pathlib import Path
from typing import Any

import click

from deploy.commands.base import StackGroup
from deploy.errors import SettingInvalid
from serving_core import ModelFolderInvalid
from serving_core.importing import Imported, ImportOptions, import_model
from serving_core.model_folder import read_model_folder
from serving_core.predictor import LOGITS, PROBABILITIES
from serving_core.tensors import DATATYPES

_LIMITS = 2


@click.group("model", cls=StackGroup)
def model() -> None:
    """Make a model folder from a model of any kind, and show one."""


@model.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--name", help="Name in responses.  [default: that of FOLDER]")
@click.option("--model-version", default="1", show_default=True, help="Version of the model.")
@click.option("--signature", help="Signature to serve, if there are several.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME:DATATYPE:SHAPE",
    help="Declare an input, such as x:FP32:-1,4; -1 is any size. For a model that does not "
    "describe it, or to fix a variable size; may repeat.",
)
@click.option(
    "--output", "outputs", multiple=True, metavar="NAME", help="Serve only this; may repeat."
)
@click.option(
    "--classes",
    type=click.Path(path_type=Path),
    help="File with the names of the classes, one a line, in the order of the scores.",
)
@click.option(
    "--range",
    "ranges",
    multiple=True,
    metavar="[NAME=]LOW,HIGH",
    help="Range of an input; other values are refused. NAME if there are several inputs.",
)
@click.option(
    "--rescale",
    multiple=True,
    metavar="[NAME=]LOW,HIGH",
    help="Range of the values in requests, which are rescaled to --range.",
)
@click.option(
    "--scores",
    type=click.Choice([LOGITS, PROBABILITIES]),
    help="What a classifier's output has.  [default: probabilities that sum to 1]",
)
@click.pass_context
def import_(
    context: click.Context,
    source: Path,
    folder: Path,
    name: str | None,
    model_version: str,
    signature: str | None,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    classes: Path | None,
    ranges: tuple[str, ...],
    rescale: tuple[str, ...],
    scores: str | None,
) -> None:
    """Make the model folder FOLDER from SOURCE.

    SOURCE is a SavedModel folder, a .keras, .h5, .tflite or .onnx file, or a Python file or folder
    with model.py. The model runs once, and what cannot be served is refused. Importing the same
    again changes nothing.
    """
    options = ImportOptions(
        name=name,
        version=model_version,
        signature=signature,
        inputs=tuple(_input(text) for text in inputs),
        outputs=outputs,
        ranges=dict(_limits(text, "--range") for text in ranges),
        rescale=dict(_limits(text, "--rescale") for text in rescale),
        classes=_classes(classes) if classes else (),
        scores=scores,
    )
    if scores and not classes:
        raise SettingInvalid("--scores is given without --classes, expected both")
    if options.rescale and not options.ranges:
        raise SettingInvalid("--rescale is given without --range, expected both")
    imported = import_model(source, folder, options)
    if context.meta.get("quiet"):
        click.echo(json.dumps(imported.description))
        return
    _print_report(folder, imported)


@model.command("show")
@click.argument("folder", type=click.Path(path_type=Path))
@click.pass_context
def show(context: click.Context, folder: Path) -> None:
    """Check the model folder FOLDER and show what it serves."""
    found = read_model_folder(folder)
    signature = found.info.signature
    description = found.description or {
        "name": found.info.name,
        "version": found.info.version,
        "engine": found.info.engine,
    }
    if context.meta.get("quiet"):
        click.echo(json.dumps(description))
        return
    click.echo(f"{found.info.name} version {found.info.version}, engine {found.info.engine}")
    if not signature.inputs:
        click.echo(
            "  no model.json: the server finds the inputs and outputs when it loads the model; "
            "`seldon-cli model import` writes them down"
        )
        return
    for kind, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for spec in specs:
            limits = f", {spec.range[0]:g} to {spec.range[1]:g}" if spec.range else ""
            if spec.rescale:
                limits += f", rescaled from {spec.rescale[0]:g} to {spec.rescale[1]:g}"
            click.echo(f"  {kind} {spec.name}: {spec.datatype} {list(spec.shape)}{limits}")
    if not signature.batched:
        click.echo("  requests are not joined: the model has no batch dimension")
    if found.info.classes:
        scores = found.info.scores or PROBABILITIES
        click.echo(f"  classifier of {len(found.info.classes)} classes, output: {scores}")


def _print_report(folder: Path, imported: Imported) -> None:
    description, trial = imported.description, imported.trial
    if trial is None:
        click.echo(f"{folder} has this model already: nothing was changed")
        return
    click.echo(
        f"{folder}: {description['name']} version {description['version']}, "
        f"engine {description['engine']}"
    )
    if len(trial["signatures"]) > 1:
        others = ", ".join(trial["signatures"])
        click.echo(f"  signature {description['signature']} of: {others} (--signature chooses)")
    for tensor in description["inputs"]:
        click.echo(f"  input {tensor['name']}: {tensor['datatype']} {tensor['shape']}")
    for tensor in description["outputs"]:
        values = _values(trial["values"][tensor["name"]])
        click.echo(f"  output {tensor['name']}: {tensor['datatype']} {tensor['shape']}{values}")
    unused = set(trial["outputs"]) - {tensor["name"] for tensor in description["outputs"]}
    if unused:
        click.echo(f"  outputs not served: {', '.join(sorted(unused))} (--output chooses)")
    if not description["batched"]:
        click.echo("  requests are not joined: the model does not compute rows one by one")
    for rows, spent_ms in trial["latency_ms"].items():
        click.echo(f"  batch of {rows}: {spent_ms:.2f} ms")
    if "classes" in description:
        click.echo(f"  classifier of {len(description['classes'])} classes")
    else:
        click.echo("  no classifier: /predict and Classify do not serve it, other protocols do")


def _values(values: dict[str, Any]) -> str:
    if values["probabilities"]:
        return ", looks like probabilities"
    if "low" not in values:
        return ""
    return f", values {values['low']:.3g} to {values['high']:.3g}, no probabilities"


def _input(text: str) -> tuple[str, str, tuple[int, ...]]:
    name, _, rest = text.rpartition(":")[0].rpartition(":")
    datatype, sizes = rest, text.rpartition(":")[2]
    try:
        shape = tuple(int(size) for size in sizes.split(",") if size)
    except ValueError:
        shape = (0,)
    if not name or datatype not in DATATYPES or not all(size > 0 or size == -1 for size in shape):
        raise SettingInvalid(
            f"--input is {text!r}, expected NAME:DATATYPE:SHAPE, such as x:FP32:-1,4; "
            f"DATATYPE is one of {', '.join(DATATYPES)}"
        )
    return name, datatype, shape


def _limits(text: str, option: str) -> tuple[str, tuple[float, float]]:
    name, _, limits = text.rpartition("=")
    try:
        low, high = (float(limit) for limit in limits.split(",", _LIMITS))
    except ValueError:
        low = high = 0.0
    if not low < high < float("inf") or low == -float("inf"):
        raise SettingInvalid(f"{option} is {text!r}, expected LOW,HIGH, such as 0,1")
    return name, (low, high)


def _classes(file: Path) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in file.read_text("utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ModelFolderInvalid(f"--classes {file} cannot be read: {reason}") from None
    if not names or not all(names) or len(set(names)) != len(names):
        raise ModelFolderInvalid(
            f"--classes {file} is empty, has an empty line or repeats a name; "
            f"expected the name of one class a line"
        )
    return names
