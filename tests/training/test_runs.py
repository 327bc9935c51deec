"""Run folders: whole or not at all, read back to the bit, and damage said in words."""

from __future__ import annotations

import dataclasses
import errno
import importlib.metadata
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from plain_loops import assert_params_equal
from safetensors import safe_open
from safetensors.numpy import load_file, save, save_file

from jax_softmax import InputError, TrainConfig, evaluate, fit, load_run, predict_proba, save_run
from jax_softmax.training import atomic, pictures
from jax_softmax.training.run_files import BLANK, sealed, sha256

FILES = {
    "config.json",
    "metrics.json",
    "history.jsonl",
    "model.safetensors",
    "MODEL_CARD.md",
    "learning_curve.png",
    "confusion_matrix.png",
}


def _tree(folder):
    """Every path under the folder with its bytes, to see that nothing changed."""
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


@pytest.fixture(scope="module")
def runs(tmp_path_factory, table, images, table_result, image_result):
    """A folder with the runs `table` and `images`; not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    for name, split, result in (("table", table, table_result), ("images", images, image_result)):
        seen = evaluate(result, split)
        metrics = {"dataset": name, "test_accuracy": seen.accuracy}
        path = save_run(result, folder / "of" / name, metrics=metrics, evaluation=seen)
        assert path == folder / "of" / name
    return folder / "of"


@pytest.fixture
def run(runs, tmp_path):
    """A copy of the run `table`, to damage."""
    return Path(shutil.copytree(runs / "table", tmp_path / "run"))


@pytest.mark.parametrize("name", ["table", "images"])
def test_a_run_reads_back_as_it_was(name, runs, request):
    split = request.getfixturevalue(name)
    result = request.getfixturevalue({"table": "table_result", "images": "image_result"}[name])
    loaded = load_run(runs / name)
    assert_params_equal(loaded.params, result.params)
    for field in dataclasses.fields(loaded):
        if field.name != "params":
            assert getattr(loaded, field.name) == getattr(result, field.name), field.name
    np.testing.assert_array_equal(
        predict_proba(loaded, split.features), predict_proba(result, split.features)
    )
    assert evaluate(loaded, split).loss == evaluate(result, split).loss


def test_a_float64_run_keeps_its_bits(table, tmp_path, x64):
    result = fit(table, TrainConfig(epochs=2))
    loaded = load_run(save_run(result, tmp_path / "run"))
    assert loaded.params["kernel"].dtype == np.float64
    assert_params_equal(loaded.params, result.params)


def test_training_goes_on_from_a_loaded_run(table, runs, table_result):
    config = TrainConfig(epochs=2)
    again = fit(table, config, params=load_run(runs / "table").params)
    assert_params_equal(again.params, fit(table, config, params=table_result.params).params)


def test_the_files_of_a_run_on_numbers(runs):
    assert {path.name for path in (runs / "table").iterdir()} == FILES


def test_the_files_of_a_run_on_images(runs):
    assert {path.name for path in (runs / "images").iterdir()} == FILES | {"class_weights.png"}


def test_without_an_evaluation_there_is_no_confusion_matrix(table_result, tmp_path):
    folder = save_run(table_result, tmp_path / "run")
    assert {path.name for path in folder.iterdir()} == FILES - {"confusion_matrix.png"}


@pytest.mark.parametrize(
    "name", ["learning_curve.png", "confusion_matrix.png", "class_weights.png"]
)
def test_pictures_open_and_are_not_blank(name, runs):
    with Image.open(runs / "images" / name) as image:
        assert image.format == "PNG"
        assert min(image.size) > 200
        grey = np.asarray(image.convert("L"))
    assert grey.std() > 5
    assert (grey < 128).any()


@pytest.mark.parametrize("shape", [(4, 5, 3), (2, 3, 2, 5)])
def test_images_with_more_axes_are_drawn(shape, tmp_path):
    rng = np.random.default_rng(0)
    from jax_softmax import Split

    split = Split(rng.integers(0, 9, size=(6, *shape)), np.arange(6) % 2)
    folder = save_run(fit(split, TrainConfig(epochs=1)), tmp_path / "run")
    assert (folder / "class_weights.png").is_file()
    assert load_run(folder).feature_shape == shape


def test_metrics_say_what_was_measured_where_and_with_what(runs, table_result):
    metrics = json.loads((runs / "table" / "metrics.json").read_text())
    own = {"compile_seconds", "train_seconds", "device", "versions", "sha256", "model_sha256"}
    assert metrics.keys() == own | {"dataset", "test_accuracy"}
    assert metrics["train_seconds"] == table_result.train_seconds
    assert metrics["versions"].keys() == {
        "python",
        "jax-softmax",
        "jax",
        "jaxlib",
        "optax",
        "numpy",
    }


def test_a_package_that_is_not_installed_saves_runs_too(table_result, tmp_path, monkeypatch):
    """A folder on PYTHONPATH has no metadata."""

    def version(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert load_run(save_run(table_result, tmp_path / "run")).class_names


def test_config_and_history_are_plain_json(runs, table_result):
    config = json.loads((runs / "table" / "config.json").read_text())
    assert config == dataclasses.asdict(table_result.config)
    lines = (runs / "table" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == list(table_result.history)


def test_settings_from_numpy_are_written(table, tmp_path):
    config = TrainConfig(learning_rate=np.float32(0.5), batch_size=np.int64(8), epochs=np.int64(2))
    folder = save_run(fit(table, config), tmp_path / "run")
    assert load_run(folder).config == config


def test_no_file_is_a_pickle(runs):
    for path in (runs / "images").iterdir():
        assert path.suffix in {".json", ".jsonl", ".png", ".safetensors", ".md"}
        assert not path.read_bytes().startswith(b"\x80"), path


def test_a_run_may_be_moved(run, tmp_path):
    expected = load_run(run)
    run.rename(tmp_path / "elsewhere")
    assert_params_equal(load_run(tmp_path / "elsewhere").params, expected.params)


def test_a_run_is_not_replaced_unasked(run, image_result):
    before = _tree(run.parent)
    with pytest.raises(InputError, match=r"a run is there already; .*--overwrite \(overwrite=True"):
        save_run(image_result, run)
    assert _tree(run.parent) == before


def test_a_run_is_replaced_whole_when_asked(run, image_result):
    save_run(image_result, run, overwrite=True)
    assert {path.name for path in run.parent.iterdir()} == {"run"}
    expected = FILES - {"confusion_matrix.png"} | {"class_weights.png"}
    assert {path.name for path in run.iterdir()} == expected
    assert load_run(run).feature_shape == (6, 5)


def test_a_run_with_files_of_others_is_not_replaced(run, image_result):
    (run / "notes.txt").write_text("years")
    with pytest.raises(InputError, match=r"holds files of others \(notes.txt\)"):
        save_run(image_result, run, overwrite=True)
    assert {path.name for path in run.iterdir()} == FILES | {"notes.txt"}


def test_an_empty_folder_becomes_the_run(table_result, tmp_path):
    (tmp_path / "run").mkdir()
    assert load_run(save_run(table_result, tmp_path / "run")).history == table_result.history


def _other_folder(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("years")
    return tmp_path / "work"


def _a_file(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    return tmp_path / "file"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_other_folder, "holds files but no model.safetensors, so it is no run"),
        (_a_file, "expected a folder or nothing, got a file"),
        (lambda tmp_path: _a_file(tmp_path) / "run", "cannot be made, for .* is no folder"),
        (lambda tmp_path: Path(), "expected the path of a folder that can be made"),
        (lambda tmp_path: Path(".."), "expected the path of a folder that can be made"),
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_run_is_never_replaced(
    make, words, overwrite, table_result, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    target = make(tmp_path)
    before = _tree(tmp_path)
    with pytest.raises(InputError, match=f"run folder .*{words}"):
        save_run(table_result, target, overwrite=overwrite)
    assert _tree(tmp_path) == before


def _fail(*_arguments):
    raise RuntimeError("no ink")


@pytest.mark.parametrize("target", ["run", "runs/of/today"])
def test_a_failure_midway_leaves_nothing(target, table_result, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "learning_curve", _fail)
    with pytest.raises(RuntimeError, match="no ink"):
        save_run(table_result, tmp_path / target)
    assert _tree(tmp_path) == {}


def test_a_failure_midway_leaves_the_old_run(run, image_result, monkeypatch):
    before = _tree(run.parent)
    monkeypatch.setattr(pictures, "learning_curve", _fail)
    with pytest.raises(RuntimeError, match="no ink"):
        save_run(image_result, run, overwrite=True)
    assert _tree(run.parent) == before


@pytest.mark.parametrize("swaps", [True, False])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("full")])
def test_a_failure_between_old_and_new_leaves_the_old_run(
    run, image_result, error, swaps, monkeypatch
):
    """Where the system swaps folders, and where it takes one away and puts another there."""
    before = _tree(run.parent)

    def swap(*_arguments):
        raise error if swaps else OSError(errno.ENOSYS, "not here")

    def rename(self, target):
        if self.name == "new" and target == run:  # the new one, to its place
            raise error
        return original(self, target)

    original = Path.rename
    monkeypatch.setattr(atomic, "_rename", swap)
    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises((KeyboardInterrupt, InputError)):
        save_run(image_result, run, overwrite=True)
    monkeypatch.undo()
    assert _tree(run.parent) == before


def _drop(name):
    return lambda run: (run / name).unlink()


def _write(name, content):
    return lambda run: (run / name).write_bytes(content)


def _truncate_model(run):
    path = run / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-7])


def _forge(params=None, config=None, history=None, measured=None, **about):
    """Writes the run anew with something else in it and digests to match; a None drops an entry."""

    def damage(run):
        model = run / "model.safetensors"
        with safe_open(model, framework="numpy") as file:
            said = json.loads(file.metadata()["jax_softmax"])
        for name, lines in (("config.json", config), ("history.jsonl", history)):
            if lines is not None:
                (run / name).write_text(lines)
        digests = {
            "sha256": BLANK.decode(),
            "config_sha256": sha256((run / "config.json").read_bytes()),
            "history_sha256": sha256((run / "history.jsonl").read_bytes()),
        }
        said = _without_none(said | digests | about)
        arrays = load_file(model) | (params or {})
        model.write_bytes(sealed(save(arrays, metadata={"jax_softmax": json.dumps(said)})))
        said = json.loads((run / "metrics.json").read_text()) | (measured or {})
        said |= {"sha256": BLANK.decode(), "model_sha256": sha256(model.read_bytes())}
        (run / "metrics.json").write_bytes(sealed(json.dumps(_without_none(said)).encode()))

    return damage


def _without_none(said):
    return {name: value for name, value in said.items() if value is not None}


def _another_programs(**metadata):
    return lambda run: save_file({"w": np.zeros(3)}, run / "model.safetensors", metadata)


KERNEL = np.zeros((5, 3), np.float32)

DAMAGE = {
    "no model": (_drop("model.safetensors"), "no model.safetensors in it; give the folder"),
    "no config": (_drop("config.json"), "no config.json in it"),
    "no history": (_drop("history.jsonl"), "no history.jsonl in it"),
    "no metrics": (_drop("metrics.json"), "no metrics.json in it"),
    "truncated model": (_truncate_model, "model.safetensors: is damaged .its SHA-256 is not the"),
    "empty model": (_write("model.safetensors", b""), "cannot be read as a safetensors file"),
    "words for a model": (_write("model.safetensors", b"hello there" * 9), "cannot be read as a"),
    "nested model": (
        _write("model.safetensors", b"\0\0\1\0\0\0\0\0" + b"[" * 65536),
        "cannot be read as a safetensors file.*recursion",
    ),
    "another program's": (
        _another_programs(format="pt"),
        r"expected a model that `jax-softmax train` saved \(jax_softmax.classifier.2\), got pt",
    ),
    "no mark": (_another_programs(), "got a file without that mark"),
    "an older version's": (
        _another_programs(format="jax_softmax.classifier.1"),
        "was saved by an older version .jax_softmax.classifier.1., without the digest .* train it",
    ),
    "a later version's": (
        _forge(format="jax_softmax.classifier.3"),
        "got jax_softmax.classifier.3",
    ),
    "other arrays": (_forge({"w": KERNEL}), "expected arrays of shapes .*got .*'w'"),
    "other shapes": (_forge(feature_shape=[4]), r"\(4, 3\).*got .*\(5, 3\)"),
    "shape a string": (_forge(feature_shape="5"), "feature_shape: expected integers .*got '5'"),
    "shape of strings": (_forge(feature_shape=["5"]), "feature_shape: expected integers"),
    "shape negative": (_forge(feature_shape=[-1, -5]), "feature_shape: expected integers"),
    "no names": (_forge(class_names=None), "class_names: expected strings, got None"),
    "names a string": (_forge(class_names="cat"), "class_names: expected strings, got 'cat'"),
    "names of numbers": (_forge(class_names=[1, 2, 3]), "class_names: expected strings, got .1, 2"),
    "names null": (_forge(class_names=["a", None, "c"]), "class_names: expected strings, got"),
    "names twice": (_forge(class_names=["a", "b", "a"]), "distinct names, got 'a' twice"),
    "scale a word": (_forge(feature_scale="wide"), "feature_scale: expected .*got 'wide'"),
    "scale 0": (_forge(feature_scale=0), "feature_scale: expected a finite number above 0, got 0"),
    "scale negative": (_forge(feature_scale=-1.0), "feature_scale: .*got -1.0"),
    "scale nan": (_forge(feature_scale=np.nan), "feature_scale: .*got nan"),
    "scale inf": (_forge(feature_scale=np.inf), "feature_scale: .*got inf"),
    "scale huge": (_forge(feature_scale=10**400), "feature_scale: .*got 1000"),
    "scale true": (_forge(feature_scale=True), "feature_scale: .*got True"),
    "kernel nan": (_forge({"kernel": KERNEL * np.nan}), "kernel: expected finite numbers, got NaN"),
    "kernel inf": (_forge({"kernel": KERNEL + np.inf}), "kernel: expected finite numbers, got NaN"),
    "bias nan": (_forge({"bias": KERNEL[0] * np.nan}), "bias: expected finite numbers"),
    "integers": (_forge({"kernel": KERNEL.astype(np.int32)}), "kernel: expected floating .*int32"),
    "config no json": (_forge(config="{"), "config.json: is damaged .*Expecting"),
    "config nested": (_forge(config="[" * 100_000), "config.json: is damaged .*recursion"),
    "config no text": (_write("config.json", b"\xff\xfe"), "config.json: is damaged"),
    "config another": (_forge(config='{"lr": 1}'), "config.json: is damaged .*lr"),
    "config a list": (_forge(config="[1]"), "config.json: is damaged"),
    "config bad": (_forge(config='{"epochs": 0}'), "is damaged .*epochs: expected .*got 0.;"),
    "history no json": (_forge(history="{}\n{"), "history.jsonl: is damaged"),
    "history nested": (_forge(history="[" * 100_000), "history.jsonl: is damaged .*recursion"),
    "history a list": (_forge(history="[1]\n"), "history.jsonl: is damaged .line 1: expected na"),
    "history of words": (_forge(history='{"epoch": "1"}\n'), "line 1: expected names with numbers"),
    "history cut": (_forge(history='{"epoch": 2, "train_loss": 1}\n'), "line 1: expected epoch 1"),
    "metrics no json": (_write("metrics.json", b"[1,"), "metrics.json: is damaged"),
    "metrics nested": (_write("metrics.json", b"[" * 100_000), "metrics.json: is damaged .*recurs"),
    "metrics no text": (_write("metrics.json", b"\xff"), "metrics.json: is damaged"),
    "metrics a list": (_write("metrics.json", b"[1]"), "metrics.json: is damaged .*expected names"),
    "metrics poor": (_write("metrics.json", b"{}"), "metrics.json: is damaged .its SHA-256 is not"),
    "metrics no time": (_forge(measured={"train_seconds": None}), "damaged .*train_seconds"),
    "metrics bad time": (_forge(measured={"train_seconds": -1}), "damaged .*train_seconds"),
    "metrics no device": (_forge(measured={"device": 3}), "damaged .*device"),
}


def test_a_forged_run_with_nothing_else_in_it_loads(run):
    """So what the others say is of what is in them."""
    _forge()(run)
    assert load_run(run).class_names == ("cat", "dog", "eel")


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_run_is_refused_in_words(name, run):
    damage, words = DAMAGE[name]
    damage(run)
    with pytest.raises(InputError, match=words) as caught:
        load_run(run)
    assert str(run) in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such folder; give the folder that"):
        load_run(tmp_path / "nowhere")
