"""A mistake is one message on standard error, exit code 2, and nothing left behind."""

from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image

from jax_softmax import InputError
from jax_softmax.cli import main


@pytest.fixture
def files(cwd, iris, digits, iris_rows):
    """Files to make mistakes with, and the places that `{iris}` and the like stand for."""
    np.savez("archive.npz", iris_rows)
    (cwd / "archive.npz").rename(cwd / "archive.npy")
    np.save("wide.npy", np.ones((2, 5)))
    np.save("nan.npy", np.full((2, 4), np.nan))
    np.save("empty.npy", np.ones((0, 4)))
    np.save("words.npy", np.array([["a", "b", "c", "d"]]))
    np.save("pickle.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save("good.npy", iris_rows)
    header = (cwd / "good.npy").read_bytes()
    (cwd / "cut.npy").write_bytes(header[:-9])
    (cwd / "bad-header.npy").write_bytes(header.replace(b"(3, 4)", b"(3, 4("))
    shapes = {
        "huge": "(1000000000000, 4)",
        "sum": "(10**12, 4)",
        "true": "(True, 4)",
        "minus": "(-1, 4)",
        "deep": "(" * 60 + "3" + ",)" * 60,
    }
    for name, shape in shapes.items():
        stated = b"{'descr': '<f8', 'fortran_order': False, 'shape': %s, }" % shape.encode()
        stated = stated.ljust(245) + b"\n"
        size = len(stated).to_bytes(2, "little")
        (cwd / f"{name}.npy").write_bytes(b"\x93NUMPY\x01\x00" + size + stated + bytes(96))
    (cwd / "none.npy").touch()
    (cwd / "semicolons.csv").write_text("1;2;3;4\n")
    (cwd / "labelled.csv").write_text("1,2,3,4,0\n")
    (cwd / "short.csv").write_text("1,2,3,4\n1,2,3\n")
    (cwd / "word.csv").write_text("a,b,c,d\n1,2,3,4\n1,2,x,4\n")
    (cwd / "gap.csv").write_text("1,2,3,4\n1,,3,4\n")
    (cwd / "nan.csv").write_text("1,2,3,4\n1,nan,3,4\n")
    (cwd / "header.csv").write_text("a,b,c,d\n")
    (cwd / "none.csv").touch()
    (cwd / "bytes.csv").write_bytes(b"\xff\xfe\x00\x01")
    (cwd / "notes.txt").write_text("notes")
    (cwd / "folder.npy").mkdir()
    Image.fromarray(np.zeros((9, 7), np.uint8)).save("other.png")
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save("eight.png")
    picture = (cwd / "eight.png").read_bytes()
    (cwd / "cut.png").write_bytes(picture[:48])
    (cwd / "cut-header.png").write_bytes(picture[:20])
    (cwd / "bad-header.png").write_bytes(picture.replace(b"\x00\x0dIHDR", b"\x00\x0cIHDR"))
    (cwd / "words.png").write_text("not a picture")
    return {"iris": iris.run, "digits": digits.run, "long": "x" * 300}


TRAIN = {
    "unknown dataset": ("train irs", "unknown dataset 'irs': expected one of .*mean 'iris'"),
    "nothing near": ("train zzz", "unknown dataset 'zzz': expected one of iris, mnist, digits"),
    "not on this machine": ("train mnist", "mnist is not on this machine.*Place these files"),
    "long name": ("train {long}", "too long|unknown dataset"),
    "epochs 0": ("train iris --epochs 0", "epochs: expected an integer of at least 1, got 0"),
    "batch size 0": ("train iris --batch-size 0", "batch size: expected an integer of at least 1"),
    "rate 0": ("train iris --learning-rate 0", "learning rate: expected a positive, finite numb"),
    "rate < 0": ("train iris --learning-rate -1", "learning rate: .*got -1.0"),
    "rate nan": ("train iris --learning-rate nan", "learning rate: .*got nan"),
    "rate inf": ("train iris --learning-rate inf", "learning rate: .*got inf"),
    "momentum": ("train iris --momentum 1", r"momentum: expected a number in \[0, 1\), got 1.0"),
    "weight decay": ("train iris --weight-decay -1", "weight decay: expected a finite number"),
    "seed": ("train iris --seed -1", r"seed: expected an integer in \[0, 2\*\*32\), got -1"),
    "diverges": ("train iris --learning-rate 1e38", r"in epoch \d+ at learning rate 1e\+38; try"),
    "raw folder": ("train iris --raw-dir nowhere", "nowhere"),
    "data folder": ("train iris --data-dir nowhere", "expected a prepared TFDS folder"),
    "folder for digits": ("train digits --raw-dir nowhere", "drop --raw-dir and --data-dir"),
    "json folder": ("train iris --json nowhere/x.json", "--json nowhere/x.json: expected a file's"),
    "json is a folder": ("train iris --json folder.npy", "--json folder.npy: expected a file's"),
    "json name": ("train iris --json {long}", "too long|cannot be written"),
    "run is there": ("train iris --run-dir {iris}", "a run is there already; .*--overwrite"),
    "no run": ("train iris --run-dir . --overwrite", "expected the path of a folder that can"),
    "run is a file": ("train iris --run-dir notes.txt", "expected a folder or nothing, got a fil"),
    "run under a file": ("train iris --run-dir notes.txt/a/b", "cannot be made, for .*notes.txt"),
}
EVALUATE = {
    "a file for a run": ("evaluate good.npy", "run folder good.npy: a file; give the folder that"),
    "no folder": ("evaluate nowhere", "run folder nowhere: no such folder; give the folder that"),
    "no run": ("evaluate folder.npy", "no model.safetensors in it"),
    "other width": ("evaluate {iris} digits", "expected 4 numbers an example .*got 64"),
    "unknown dataset": ("evaluate {iris} digit", "unknown dataset 'digit'.*mean 'digits'"),
    "json folder": ("evaluate {iris} --json nowhere/x.json", "expected a file's path"),
    "raw folder": ("evaluate {iris} --raw-dir nowhere", "nowhere"),
}
PREDICT = {
    "no folder": ("predict nowhere good.npy", "run folder nowhere: no such folder"),
    "json folder": ("predict {iris} good.npy --json nowhere/x.json", "expected a file's path"),
    "no file": ("predict {iris} nothing.npy", "nothing.npy: expected a file, found nothing ther"),
    "a folder": ("predict {iris} folder.npy", "folder.npy: expected a file, found a folder the"),
    "suffix": ("predict {iris} notes.txt", r"expected a file ending in .npy, .csv, .png"),
    "long name": ("predict {iris} {long}.npy", "too long|found nothing there"),
    "width": ("predict {iris} wide.npy", "expected 4 numbers an example .*got 5"),
    "nan": ("predict {iris} nan.npy", "expected finite numbers, got nan in row 0, column 0"),
    "empty": ("predict {iris} empty.npy", "expected at least one example"),
    "words": ("predict {iris} words.npy", "expected real numbers, got dtype <U1"),
    "pickle": ("predict {iris} pickle.npy", "pickle.npy: expected a NumPy array file .of numbers."),
    "archive": ("predict {iris} archive.npy", "expected a NumPy array file, found an archive"),
    "cut array": ("predict {iris} cut.npy", "cut.npy: expected a NumPy array file"),
    "bad header": ("predict {iris} bad-header.npy", "bad-header.npy: expected a NumPy array"),
    "a billion rows": ("predict {iris} huge.npy", "huge.npy: expected a NumPy array file"),
    "a sum for rows": ("predict {iris} sum.npy", "sum.npy: expected a NumPy array file"),
    "True rows": ("predict {iris} true.npy", "true.npy: expected a NumPy array file"),
    "fewer than no rows": ("predict {iris} minus.npy", "minus.npy: expected a NumPy array file"),
    "deep header": ("predict {iris} deep.npy", "deep.npy: expected a NumPy array file"),
    "empty array": ("predict {iris} none.npy", "none.npy: expected a NumPy array file"),
    "short row": ("predict {iris} short.csv", "short.csv, line 2: expected 4 numbers.*got 3"),
    "a label": ("predict {iris} labelled.csv", "4 numbers.*got 5.. Leave out the column of labels"),
    "semicolons": (
        "predict {iris} semicolons.csv",
        "line 1: expected commas between the cells, found sem",
    ),
    "a word": ("predict {iris} word.csv", "word.csv, line 3, column 3: expected a .*it is 'x'"),
    "a gap": ("predict {iris} gap.csv", "gap.csv, line 2, column 2: expected .* it is empty"),
    "nan in a table": (
        "predict {iris} nan.csv",
        "line 2, column 2: expected a finite number.*'nan'",
    ),
    "header only": ("predict {iris} header.csv", "expected at least one row of numbers"),
    "empty table": ("predict {iris} none.csv", "expected at least one row of numbers"),
    "bytes": ("predict {iris} bytes.csv", "bytes.csv: expected a text table in UTF-8"),
    "picture of numbers": ("predict {iris} eight.png", "trained on 4 numbers an example, not on"),
    "size": ("predict {digits} other.png", "expected an image of 8x8 pixels.*got 7x9; resize"),
    "cut picture": ("predict {digits} cut.png", "cut.png: cannot be read"),
    "cut header": ("predict {digits} cut-header.png", "cut-header.png: "),
    "bad picture": ("predict {digits} bad-header.png", "bad-header.png: expected an image"),
    "no picture": ("predict {digits} words.png", "expected an image, found something else"),
    "table for images": ("predict {digits} short.csv", "line 1: expected 64 numbers.*got 4"),
}
MISTAKES = {
    f"{words.split()[0]}: {name}": (words, message)
    for group in (TRAIN, EVALUATE, PREDICT)
    for name, (words, message) in group.items()
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_message_and_leaves_nothing(name, files, command, cwd, tree):
    words, message = MISTAKES[name]
    before = {folder: tree(folder) for folder in (cwd, files["iris"], files["digits"])}
    outcome = command(*(word.format(**files) for word in words.split()))
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("jax-softmax: ")
    assert outcome.err.count("jax-softmax: ") == 1
    assert outcome.err.endswith("\n")
    assert "Traceback" not in outcome.err
    assert re.search(message, outcome.err, re.DOTALL), outcome.err
    assert {folder: tree(folder) for folder in before} == before


def test_debug_raises(files):
    with pytest.raises(InputError, match="unknown dataset"):
        main(["train", "irs", "--debug"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "train, ?evaluate, ?predict"),
        ("train", "DATASET"),
        ("train iris --epochs", "--epochs"),
        ("train iris --epochs ten", "--epochs: expected a whole number, got 'ten'"),
        ("train iris --epochs 3.5", "--epochs: expected a whole number, got '3.5'"),
        ("train iris --epochs None", "--epochs: expected a whole number, got 'None'"),
        ("train iris --seed=x", "--seed: expected a whole number, got 'x'"),
        ("train iris --learning-rate fast", "--learning-rate: expected a number, got 'fast'"),
        ("train iris --momentum much", "--momentum: expected a number, got 'much'"),
        (
            "train iris --batch-size some",
            "--batch-size: expected a whole number or none, got 'some'",
        ),
        ("train iris --schedule linear", "one of constant, cosine, warmup-cosine, got 'linear'"),
        ("train iris more", "more"),
        ("predict onlyrun", "FILE"),
    ],
)
def test_a_command_line_that_cannot_be_read_exits_with_2(words, message, capsys, cwd, tree):
    with pytest.raises(SystemExit) as caught:
        main(words.split())
    assert caught.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err and "<class" not in err and "'None'," not in err
    name = words.split()[0] if words else ""
    assert f"jax-softmax {name} --help".replace("  ", " ") in err.replace("\n", " ")
    said = " ".join(err.replace("│", " ").split())  # tyro draws a box around it
    assert re.search(message, said)
    assert tree(cwd) == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trai iris", "unknown command 'trai': did you mean train?"),
        (
            "learn",
            "unknown command 'learn': expected one of train, evaluate, predict, report, export, "
            "verify, bench.",
        ),
        (
            "train iris --lr 3",
            "unknown option --lr of jax-softmax train: did you mean --learning-rate?",
        ),
        ("train --lr=3 iris", "unknown option --lr of .*: did you mean --learning-rate?"),
        ("train iris --rate 3", "unknown option --rate of .*: did you mean --learning-rate?"),
        ("train iris --max_epochs 3", "unknown option --max-epochs of .* mean --epochs?"),
        ("train iris --force", "unknown option --force of .*: did you mean --overwrite?"),
        ("train iris --no-overwrite", "unknown option --no-overwrite of .* mean --overwrite?"),
        (
            "train iris --gpus 2",
            "unknown option --gpus of jax-softmax train: the nearest are --[-a-z, ]*; "
            "`jax-softmax train --help` lists all.",
        ),
        (
            "train iris --qqqq",
            "unknown option --qqqq of jax-softmax train: `jax-softmax train --help` lists all.",
        ),
        (
            "train table.csv --label a --target b",
            "--target: expected --label or --target, which is the same, got both; leave one out.",
        ),
        ("train table.csv --target=a --label=b", "--target: expected --label or --target, .*"),
        ("evaluate run --run-dir x", "unknown option --run-dir of .* mean --raw-dir?"),
        ("bench --no-compilation-cache", "unknown option --no-compilation-cache of .*: .*"),
    ],
)
def test_an_unknown_word_names_the_nearest_that_is_known(words, message, command, cwd, tree):
    done = command(*words.split())
    assert (done.code, done.out) == (2, "")
    assert re.fullmatch(f"jax-softmax: {message}\n".replace("?", "\\?"), done.err)
    assert tree(cwd) == {}


@pytest.mark.parametrize("name", ["", "train", "evaluate", "predict", "verify"])
def test_help_fits_80_columns(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as caught:
        main([*name.split(), "--help"])
    assert caught.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("usage: jax-softmax")  # the only line that tyro does not wrap
    assert max(map(len, lines[1:])) <= 80


def test_help_says_what_each_dataset_takes(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for defaults in (
        "iris 1000, mnist 20, digits 100, tables 100",
        "iris none, mnist 128, digits 32, tables 32",
        "iris 0.1, mnist 0.5, digits 0.5, tables 0.03",
        "iris constant, mnist cosine, digits cosine, tables cosine",
    ):
        assert f"(default: {defaults})" in said
