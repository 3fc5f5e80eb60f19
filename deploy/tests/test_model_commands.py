"""`seldon-cli model`: imports run in processes of their own, as for an operator."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from deploy.commands.cli import main as seldon_cli
from serving_core import read_model_folder

RELEASED = Path(__file__).parents[2] / "models" / "deep_mnist" / "1"
Cli = Callable[..., Result]
MODEL = """
import numpy as np

class Model:
    inputs = {"x": ("FP32", [-1, 3])}

    def load(self, folder):
        self.weights = np.loadtxt(folder / "weights.txt")

    def predict(self, inputs):
        return {"y": (inputs["x"] @ self.weights).astype(np.float32)}
"""


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    def run(*words: object) -> Result:
        runner = CliRunner(env={"SELDON_HOME": str(tmp_path / "home")})
        result = runner.invoke(seldon_cli, [str(word) for word in words])
        assert "Traceback" not in result.output
        return result

    return run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with model.py, a file that it reads, and what does not belong to it."""
    folder = tmp_path / "source"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "__pycache__" / "model.pyc").write_bytes(b"")
    (folder / ".git").mkdir()
    (folder / ".git" / "config").write_text("")
    (folder / "model.py").write_text(MODEL)
    (folder / "weights.txt").write_text("1 2 3")
    return folder


def two_outputs() -> bytes:
    """Rows of x, and a list of them, which no protocol can hold."""
    graph = helper.make_graph(
        [
            helper.make_node("Identity", ["x"], ["same"]),
            helper.make_node("SequenceConstruct", ["x", "x"], ["both"]),
        ],
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 2])],
        [
            helper.make_tensor_value_info("same", TensorProto.FLOAT, ["n", 2]),
            helper.make_tensor_sequence_value_info("both", TensorProto.FLOAT, ["n", 2]),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString())


def test_an_import_copies_describes_and_reports(cli: Cli, source: Path, tmp_path: Path) -> None:
    done = cli("model", "import", source, tmp_path / "made", "--model-version", "7")
    assert done.exit_code == 0, done.output
    assert "connected to the registry" not in done.output
    lines = done.stdout.splitlines()
    assert lines[0] == f"{tmp_path}/made: made version 7, engine python"
    assert "  input x: FP32 [-1, 3]" in lines
    assert any(line.startswith("  output y: FP32 [-1], values ") for line in lines)
    assert [line.split(":")[0] for line in lines if "batch of" in line] == [
        f"  batch of {rows}" for rows in (1, 4, 16)
    ]
    files = {str(path.relative_to(tmp_path / "made")) for path in (tmp_path / "made").iterdir()}
    assert files == {"model.json", "model.py", "weights.txt"}
    info = read_model_folder(tmp_path / "made").info
    assert (info.name, info.version, info.engine) == ("made", "7", "python")
    assert {path.name for path in tmp_path.iterdir()} == {"source", "made"}
    assert "input x: FP32 [-1, 3]" in cli("model", "show", tmp_path / "made").stdout


def test_a_repeated_import_changes_nothing(cli: Cli, source: Path, tmp_path: Path) -> None:
    words = ("model", "import", source, tmp_path / "made")
    cli(*words)
    before = (tmp_path / "made" / "model.json").stat()
    again = cli(*words)
    assert "has this model already: nothing was changed" in again.stdout
    assert (tmp_path / "made" / "model.json").stat().st_mtime_ns == before.st_mtime_ns
    for change in ("other options", "another source"):
        if change == "another source":
            (source / "weights.txt").write_text("3 2 1")
        other = cli(*words, *(("--range", "0,1") if change == "other options" else ()))
        assert other.exit_code == 1
        assert "exists and is not of this import; choose another folder" in other.output
    assert (tmp_path / "made" / "weights.txt").read_text() == "1 2 3"


def test_a_repeated_import_finds_damage(cli: Cli, source: Path, tmp_path: Path) -> None:
    words = ("model", "import", source, tmp_path / "made")
    cli(*words)
    (tmp_path / "made" / "weights.txt").write_text("9 9 9")
    assert "weights.txt fails its checksum" in cli(*words).output


def test_an_empty_folder_is_filled_and_another_is_not(
    cli: Cli, source: Path, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    made.mkdir()
    assert cli("model", "import", source, made).exit_code == 0
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious").write_text("kept")
    assert cli("model", "import", source, other).exit_code == 1
    assert [path.name for path in other.iterdir()] == ["precious"]


def test_a_failed_import_leaves_nothing(cli: Cli, source: Path, tmp_path: Path) -> None:
    (source / "weights.txt").unlink()
    done = cli("model", "import", source, tmp_path / "deep" / "made")
    assert done.exit_code == 1
    assert f"{source}/model.py, line 8: load raises FileNotFoundError" in done.output
    assert not list((tmp_path / "deep").iterdir())


def test_a_model_that_ends_its_process_is_refused(cli: Cli, source: Path, tmp_path: Path) -> None:
    (source / "model.py").write_text("raise SystemExit(3)")
    done = cli("model", "import", source, tmp_path / "made")
    assert "ended the process that ran it (exit status 3)" in done.output
    (source / "model.py").write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    done = cli("model", "import", source, tmp_path / "made")
    assert "ended the process that ran it (signal SIGSEGV)" in done.output


def test_debug_shows_the_models_traceback(
    source: Path, tmp_path: Path, cli: Cli, capfd: pytest.CaptureFixture[str]
) -> None:
    (source / "model.py").write_text(MODEL.replace("self.weights =", "a, b ="))
    with pytest.raises(SystemExit):
        seldon_cli.main(["--debug", "model", "import", str(source), str(tmp_path / "made")])
    assert "too many values to unpack" in capfd.readouterr().err


def test_an_output_that_no_protocol_holds_is_refused(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "two.onnx"
    file.write_bytes(two_outputs())
    onnx.checker.check_model(onnx.load(file))
    refused = cli("model", "import", file, tmp_path / "made")
    assert "output both has the type seq(tensor(float)), which no protocol can hold" in (
        refused.output
    )
    assert "choose others with --output: same" in refused.output
    done = cli("model", "import", file, tmp_path / "made", "--output", "same")
    assert "outputs not served: both (--output chooses)" in done.stdout


def test_a_classifier_is_checked(cli: Cli, tmp_path: Path) -> None:
    file, classes = tmp_path / "two.onnx", tmp_path / "classes.txt"
    file.write_bytes(two_outputs())
    classes.write_text("cat\ndog\n")
    words = ("model", "import", file, tmp_path / "made", "--output", "same", "--classes", classes)
    assert "expected probabilities that sum to 1; say --scores logits" in cli(*words).output
    classes.write_text("cat\ndog\nfox\n")
    assert "--classes has 3 names, which need" in cli(*words).output
    classes.write_text("cat\n\ndog\n")
    assert "has an empty line or repeats a name" in cli(*words).output
    classes.write_text("cat\ndog\n")
    assert "classifier of 2 classes" in cli(*words, "--scores", "logits").stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--range", "1,0"], "--range is '1,0', expected LOW,HIGH"),
        (["--range", "0"], "--range is '0', expected LOW,HIGH"),
        (["--range", "z=0,1"], "--range is for the input 'z', expected one of: x"),
        (["--scores", "logits"], "--scores is given without --classes"),
        (["--rescale", "0,255"], "--rescale is given without --range"),
        (["--input", "x:FP32"], "--input is 'x:FP32', expected NAME:DATATYPE:SHAPE"),
        (["--input", "x:FLOAT:-1,3"], "DATATYPE is one of BOOL"),
        (["--input", "x:FP64:-1,3"], "--input declares x as FP64 [-1, 3], the model has FP32"),
        (["--input", "z:FP32:-1"], "--input names 'z', expected one of: x"),
        (["--output", "z"], "returns the outputs y, expected z"),
        (["--signature", "serve"], "--signature is 'serve', expected one of: Model"),
    ],
)
def test_a_wrong_option_is_named(
    cli: Cli, source: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    done = cli("model", "import", source, tmp_path / "made", *options)
    assert done.exit_code == 1
    assert message in done.output
    assert not (tmp_path / "made").exists()


def test_ranges_and_declared_inputs_are_written(cli: Cli, source: Path, tmp_path: Path) -> None:
    words = ("--input", "x:FP32:-1,3", "--range", "x=0,1", "--rescale", "0,255")
    done = cli("-q", "model", "import", source, tmp_path / "made", *words)
    (tensor,) = json.loads(done.stdout)["inputs"]
    expected = {"name": "x", "datatype": "FP32", "shape": [-1, 3], "range": [0, 1]}
    assert tensor == expected | {"rescale": [0, 255]}
    shown = cli("model", "show", tmp_path / "made").stdout
    assert "input x: FP32 [-1, 3], 0 to 1, rescaled from 0 to 255" in shown


def test_a_tflite_file_takes_any_batch(cli: Cli, tmp_path: Path) -> None:
    shutil.copy(RELEASED / "model.tflite", tmp_path / "digits.tflite")
    done = cli("model", "import", tmp_path / "digits.tflite", tmp_path / "made", "--range", "0,1")
    assert "output probabilities: FP32 [-1, 10], looks like probabilities" in done.stdout


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.pt", "", "is no model of a known kind, expected a SavedModel"),
        ("model.tflite", "no flatbuffer", "LiteRT cannot load"),
        ("model.onnx", "no protobuf", "ONNX Runtime cannot load"),
        ("nothing", None, "does not exist, expected a SavedModel"),
    ],
)
def test_what_is_no_model_is_refused(
    cli: Cli, tmp_path: Path, name: str, content: str | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    done = cli("model", "import", tmp_path / name, tmp_path / "made")
    assert done.exit_code == 1
    assert message in done.output
    assert f"{tmp_path}/{name}" in done.output
    assert "/.made" not in done.output


def test_a_folder_within_the_source_is_refused(cli: Cli, source: Path) -> None:
    done = cli("model", "import", source, source / "made")
    assert f"{source}/made is within {source}" in done.output
    assert not (source / "made").exists()


def test_a_model_folder_is_not_imported_again(cli: Cli, tmp_path: Path) -> None:
    done = cli("model", "import", RELEASED, tmp_path / "made")
    assert "it is a model folder already" in done.output


def test_show_needs_no_model_json(cli: Cli, source: Path) -> None:
    shown = cli("model", "show", source).stdout
    assert "source version 1, engine python" in shown
    assert "no model.json" in shown
