"""A table of one's own: trained on, evaluated, predicted, gone on with; mistakes are named."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_wine
from sklearn.model_selection import train_test_split

from jax_softmax import InputError, Split, evaluate, fit, load_run, predict, predict_proba, save_run
from jax_softmax.datasets import load_table, stream_npy
from jax_softmax.training.run_files import ABOUT, BLANK, sealed, sha256
from tests.datasets.prepare import wines

ROWS = 120
RNG = np.random.default_rng(1)
AGES, PLANS = RNG.integers(18, 80, ROWS), RNG.choice(["basic", "plus", "gold"], ROWS)
FRAME = pl.DataFrame(
    {
        "id": [f"C{i:03}" for i in range(ROWS)],
        "age": [None if i % 40 == 3 else age for i, age in enumerate(AGES.tolist())],
        "plan": PLANS,
        "since": [f"2024-01-{1 + i % 28:02}" for i in range(ROWS)],
        "paid": RNG.random(ROWS) < 0.5,
        "country": ["EU"] * ROWS,
        "churned": np.where(AGES + 30 * (PLANS == "basic") > 55, "yes", "no"),
    }
)
FLAGS = ("--label", "churned", "--drop", "since", "--impute", "mean", "--epochs", 20)


@pytest.fixture(scope="session")
def customers(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("own") / "customers.csv"
    FRAME.write_csv(path)
    return path


@pytest.fixture(scope="session")
def trained(train_once, customers):
    return train_once(customers, *FLAGS)


def _words(text):
    return " ".join(text.split())


def test_training_says_what_became_of_each_column(trained):
    assert (trained.code, trained.err) == (0, "")
    said = _words(trained.out)
    for words in (
        "customers.csv: 96 training and 24 test examples, 6 features, 2 classes",
        "numbers standardised: 'age'",
        "words a feature a category: 'plan' (3), 'paid' (2)",
        "left out 'id': 120 different words in 120 rows",
        "left out 'country': the same in every training row",
        "filled in 'age': 3 missing cells, with ",
    ):
        assert words in said
    assert trained.metrics["test_accuracy"] > 0.7
    assert load_run(trained.run).class_names == ("no", "yes")


def test_what_cannot_be_used_is_said_at_once(command, customers, cwd, tree):
    outcome = command("train", customers, "--target", "churned")
    assert outcome.code == 2 and tree(cwd) == {}
    assert "'age': 3 of 120 cells are missing, the first in line 5" in outcome.err
    assert "'since': dates or times, such as '2024-01-01' in line 2" in outcome.err
    assert "--impute mean fills" in outcome.err and "--drop since leaves" in outcome.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "expected --label NAME .*the table has 'id', 'age', 'plan', 'since', 'paid', 'count"),
        ("--label Churn", "no such column .did you mean 'churned'"),
        ("--label churned --raw-dir .", "--raw-dir: expected no such folder beside a file of your"),
        ("--label churned --data-dir .", "--data-dir: expected no such folder beside a file of yo"),
        ("--label churned --drop sinse", "--drop: .* it has no 'sinse' .did you mean 'since'"),
        ("--label churned --feature-scale 2", "--feature-scale: expected --stream to go with it"),
        ("--label churned --impute zero", "expected one of mean, median, most-frequent"),
        ("--label churned --test-size many", "expected a share such as 0.2, or a whole number"),
        ("--label churned --test-size 7.5", "test size: expected a share between 0 and 1"),
        ("--label country", "expected at least two classes, got 'EU' in all 120 rows"),
    ],
)
def test_mistakes_of_training(words, said, command, customers, cwd, tree):
    if "zero" in words or "many" in words:
        with pytest.raises(SystemExit) as left:
            command("train", customers, *words.split())
        assert left.value.code == 2
        return
    outcome = command("train", customers, *words.split())
    assert outcome.code == 2
    assert re.search(said, _words(outcome.err))
    assert tree(cwd) == {}


def test_a_file_that_is_not_there(command, customers):
    err = command("train", str(customers).replace("tomers", "tmers"), "--label", "churned").err
    assert "nothing there; did you mean" in err and "customers.csv" in err
    err = command("train", "customers", "--seed", 1).err
    assert "unknown dataset 'customers': expected one of iris, mnist, digits, " in err
    assert "or the path of a table (customers.csv)." in err
    Path("customers.xlsx").write_text("x")
    err = command("train", "customers.xlsx", "--label", "churned").err
    assert "customers.xlsx: expected a table, a file ending in .csv, .tsv" in err


def test_the_split_is_that_of_scikit_learn(command, customers, no_pictures):
    split = ("--test-size", 0.4, "--seed", 7, "--stratify", "--run-dir", "run")
    command("train", customers, *FLAGS, *split)
    labels = (FRAME["churned"] == "yes").to_numpy().astype(int)
    _, held = train_test_split(labels, test_size=0.4, random_state=7, stratify=labels)
    table = [line for line in command("evaluate", "run").out.splitlines() if line.strip()][-2:]
    assert [int(line.split()[-1]) for line in table] == np.bincount(held).tolist()


def test_evaluate_takes_the_test_rows_again(trained, command, customers):
    for words in ((), (customers,), (customers, "--label", "churned")):
        outcome = command("evaluate", trained.run, *words, "--json", "e.json")
        assert (outcome.code, outcome.err) == (0, "")
        (record,) = json.loads(Path("e.json").read_text())
        assert (record["test_examples"], record["compared_with_training"]) == (24, "same")


def test_evaluate_on_another_table(trained, command):
    FRAME[:50].rename({"churned": "left"}).select("left", "plan", "age", "paid").write_csv("o.csv")
    outcome = command("evaluate", trained.run, "o.csv", "--label", "left")
    assert (outcome.code, outcome.err) == (0, "")
    said = _words(outcome.out)
    assert "o.csv, 50 test examples" in said and "(all 50 rows)" in said and "ignored" not in said
    assert "filled in 'age': 2 missing cells" in said
    assert "not the examples that training measured on" in said


def test_evaluate_says_that_the_table_has_changed(train_once, command, tmp_path):
    path = tmp_path / "changing.csv"
    FRAME.write_csv(path)
    run = train_once(path, *FLAGS).run
    FRAME[:100].write_csv(path)
    said = _words(command("evaluate", run).out)
    assert "changed since training: all of its rows are measured, and some may have been" in said
    path.unlink()
    outcome = command("evaluate", run)
    assert outcome.code == 2
    assert "changing.csv: the table that the run was trained on is not there any" in outcome.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("iris", "iris: expected a table with the columns that the model was trained on .'age', "),
        ("{} --label plan", "column 'plan': expected classes of the model .'no', 'yes'., but line"),
        ("{} --label plane", "no such column .did you mean 'plan'"),
        ("nothing.csv", "expected a file, found nothing there"),
    ],
)
def test_mistakes_of_evaluation(words, said, trained, command, customers):
    outcome = command("evaluate", trained.run, *words.format(customers).split())
    assert outcome.code == 2 and re.search(said, _words(outcome.err))


def test_a_model_saved_from_python_is_evaluated_on_a_table(command):
    wine = load_wine()
    names = ("barolo", "grignolino", "barbera")
    features = (wine.data - wine.data.mean(axis=0)) / wine.data.std(axis=0)
    save_run(fit(Split(features, wine.target, names)), "saved")
    frame = pl.DataFrame(features, schema=wine.feature_names)
    frame.with_columns(kind=pl.Series([names[i] for i in wine.target])).write_parquet("w.parquet")
    outcome = command("evaluate", "saved", "w.parquet", "--label", "kind", "--json", "e.json")
    (record,) = json.loads(Path("e.json").read_text())
    assert (outcome.code, record["test_examples"]) == (0, 178) and record["test_accuracy"] > 0.95
    said = command("evaluate", "saved").err
    assert "does not say its dataset; name one after it, or a table with its --label" in said


COLUMNS = ("age", "plan", "paid", "churned", "more")


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=15
)
@given(order=st.permutations(COLUMNS), suffix=st.sampled_from([".csv", ".parquet", ".arrow"]))
def test_predictions_do_not_hang_on_the_order_of_columns(order, suffix, trained, command, cwd):
    frame = FRAME[:20].with_columns(more=pl.lit(1)).select(order)
    path = cwd / f"new{suffix}"
    {".csv": frame.write_csv, ".parquet": frame.write_parquet}.get(suffix, frame.write_ipc)(path)
    outcome = command("predict", trained.run, path, "--output", "out.csv", "--probabilities")
    assert outcome.code == 0
    assert "ignored: 'more': training had no such column." in outcome.err
    model = load_run(trained.run)
    expected = predict_proba(model, FRAME[:20])
    found = pl.read_csv(cwd / "out.csv")
    np.testing.assert_allclose(found.select("p_no", "p_yes").to_numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_the_table_of_predictions(suffix, trained, command, customers):
    path = Path(f"out{suffix}")
    words = ("--output", path, "--probabilities", "--top", 2)
    for _ in range(2):  # our own is replaced
        outcome = command("predict", trained.run, customers, *words)
    found = pl.read_csv(path) if suffix == ".csv" else pl.read_parquet(path)
    names = ["class", "probability", "class_2", "probability_2", "p_no", "p_yes"]
    assert found.columns == names and found.height == ROWS
    assert (
        found["probability"] == found.select(pl.max_horizontal("p_no", "p_yes")).to_series()
    ).all()
    model = load_run(trained.run)
    assert found["class"].to_list() == [model.class_names[i] for i in predict(model, FRAME)]
    assert (found["class"] != found["class_2"]).all()
    assert f"examples 120: {(found['class'] == 'no').sum()} no, " in _words(outcome.out)


@pytest.mark.parametrize("suffix", [".parquet", ".tsv"])
def test_tables_of_numbers_for_other_models(suffix, iris, iris_rows, command):
    frame = pl.DataFrame(iris_rows)
    write = frame.write_parquet if suffix == ".parquet" else frame.write_csv
    write(f"flowers{suffix}", **({} if suffix == ".parquet" else {"separator": "\t"}))
    np.save("flowers.npy", iris_rows)
    expected = command("predict", iris.run, "flowers.npy").out
    outcome = command("predict", iris.run, f"flowers{suffix}")
    assert (outcome.code, outcome.out) == (0, expected)
    frame.with_columns(column_1=pl.lit("x")).write_parquet("words.parquet")
    err = command("predict", iris.run, "words.parquet").err
    assert "column 'column_1': expected numbers, but row 0 has 'x'" in err


@pytest.mark.parametrize("kind", ["npz", "folder"])
def test_pairs_of_arrays(kind, command, no_pictures):
    features, labels = np.column_stack([AGES, RNG.normal(size=ROWS)]), FRAME["churned"].to_numpy()
    np.save("features.npy", features)
    np.save("labels.npy", labels.astype(str))
    np.savez("pair.npz", X=features, y=labels.astype(str))
    path = "pair.npz" if kind == "npz" else "."
    assert command("train", path, "--run-dir", "run", "--epochs", 5).code == 0
    assert "the same as training measured" in command("evaluate", "run").out
    found = [command("predict", "run", name).out for name in ("pair.npz", "features.npy")]
    assert found[0] == found[1] and len(found[0].splitlines()) == ROWS + 1


def test_a_table_to_test_on(command, customers, no_pictures):
    FRAME[:30].reverse().write_csv("held.csv")
    command("train", customers, *FLAGS, "--test", "held.csv", "--run-dir", "run")
    said = _words(command("evaluate", "run").out)
    assert "customers.csv, 30 test examples" in said and "the same as training measured" in said
    assert "test examples of" in said
    err = command("train", customers, *FLAGS, "--test", "held.csv", "--stratify").err
    assert "--test: expected no --test-size or --stratify beside it" in err


def test_columns_of_tfds_are_a_table_too(command, tmp_path, no_pictures):
    folder = wines(tmp_path)
    words = ("--data-dir", folder, "--run-dir", "run", "--checkpoint-every", 2)
    outcome = command("train", "wine_quality", *words)
    assert (outcome.code, outcome.err) == (0, "")
    assert "words a feature a category: 'colour' (2)" in _words(outcome.out)
    said = _words(command("evaluate", "run").out)
    assert "wine_quality, 12 test examples" in said and "the same as training measured" in said
    Path("new.csv").write_text("colour,alcohol\nred,8\nwhite,11\n")
    assert [line.split()[1] for line in command("predict", "run", "new.csv").out.splitlines()] == [
        "class",
        "5",
        "6",
    ]


def test_lines_of_the_likeliest_classes(digits, command):
    np.save("digits.npy", np.eye(64)[:3].reshape(3, 8, 8))
    lines = command("predict", digits.run, "digits.npy", "--top", 3).out.splitlines()
    assert re.sub(" +", " ", lines[0]).strip() == (
        "row class probability class 2 probability class 3 probability"
    )
    assert all(len(line.split()) == 7 and len(line) == len(lines[0]) for line in lines[1:])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--probabilities", "--probabilities: expected --output FILE to go with it"),
        ("--top 0", "--top: expected a number of at least 1, got 0"),
        ("--output out.xlsx", "expected a file ending in .csv or .parquet, got '.xlsx'"),
        ("--output {}", "is the file to read; give another path"),
        ("--output other.csv", "holds something else than such results, which would be lost"),
        ("--output broken.parquet", "holds something else than such results, which would be lost"),
        ("--output nowhere/out.csv", "expected a file's path in a folder that is there"),
    ],
)
def test_mistakes_of_output(words, said, trained, command, customers):
    Path("other.csv").write_text("a,b\n1,2\n")
    Path("broken.parquet").write_text("a,b\n1,2\n")
    outcome = command("predict", trained.run, customers, *words.format(customers).split())
    assert outcome.code == 2 and said in _words(outcome.err)
    assert Path("other.csv").read_text() == "a,b\n1,2\n"


def test_what_is_new_or_filled_in_is_said(trained, command):
    Path("new.csv").write_text("plan,age,paid\nsilver,,True\nsilver,4,true\nnone,5,False\n")
    outcome = command("predict", trained.run, "new.csv")
    assert outcome.code == 0
    said = _words(outcome.err)
    assert "new.csv, filled in: 'age': 1 missing cell, with " in said
    assert "'plan': 'none' (1), 'silver' (2), not among the training rows: counted as none" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("plan,Age\nplus,4\n", "it has no 'age', 'paid' (did you mean 'Age'?). It has 'plan'"),
        (
            "4,1,2\n",
            "It has 'column 1', 'column 2', 'column 3'. Is its first line one of names?",
        ),
        ("plan,age,paid\nplus,x,True\n", "column 'age': expected numbers, but line 2 has 'x'"),
        ("plan,age,paid\nplus,inf,True\n", "column 'age': expected finite numbers, but line 2"),
    ],
)
def test_mistakes_of_predictions(text, said, trained, command):
    Path("new.csv").write_text(text)
    outcome = command("predict", trained.run, "new.csv")
    assert outcome.code == 2 and said in _words(outcome.err)


def test_a_training_on_a_table_goes_on_to_the_same_bits(
    command, customers, no_pictures, monkeypatch
):
    flags = (*FLAGS, "--checkpoint-every", 5)
    assert command("train", customers, *flags, "--run-dir", "whole").code == 0

    def stop(*_arguments, **_options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("jax_softmax.training.evaluate", stop)
        assert command("train", customers, *flags, "--run-dir", "run").code == 130
    outcome = command("train", customers, "--resume", "run", "--drop", "since,plan")
    assert outcome.code == 2
    assert "the file, --test and the flags that read them must be those of the" in outcome.err
    assert command("train", customers, "--resume", "run").code == 0
    for name in ("model.safetensors", "history.jsonl"):
        assert Path("run", name).read_bytes() == Path("whole", name).read_bytes()


def _reworded(run, change):
    """The model's file with other columns, and a digest of its own that fits; its digest."""
    path = Path(run) / "model.safetensors"
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    about = json.loads(header["__metadata__"][ABOUT]) | {"sha256": BLANK.decode()}
    change(about["columns"])
    header["__metadata__"][ABOUT] = json.dumps(about)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(sealed(len(text).to_bytes(8, "little") + text + data[8 + length :]))
    return sha256(path.read_bytes())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda columns: columns["used"].pop(), "4 features of columns for a shape [6]"),
        (lambda columns: columns["used"][0].update(scale=0), "'age': expected finite numbers and"),
        (lambda columns: columns.pop("label"), "columns: expected label, used and unused"),
    ],
)
def test_columns_that_do_not_fit_the_model_are_damage(change, said, customers, with_metrics):
    save_run(fit(load_table(customers, "churned", drop=["since"], impute="mean").train), "run")
    with_metrics("run", model_sha256=_reworded("run", change))
    with pytest.raises(InputError, match="is damaged") as raised:
        load_run("run")
    assert said in str(raised.value)


def test_a_changed_mean_is_damage(customers):
    save_run(fit(load_table(customers, "churned", drop=["since"], impute="mean").train), "run")
    path = Path("run/model.safetensors")
    path.write_bytes(path.read_bytes().replace(b'mean\\": 4', b'mean\\": 5', 1))
    with pytest.raises(InputError, match="its SHA-256 is not the one that was saved with it"):
        load_run("run")


def test_frames_in_python_are_encoded_by_name(trained, customers):
    model = load_run(trained.run)
    found = predict_proba(model, FRAME.select("paid", "age", "plan"))
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(FRAME.to_dict(as_series=False))
    np.testing.assert_array_equal(predict_proba(model, frame[["plan", "paid", "age"]]), found)
    dataset = load_table(customers, "churned", drop=["since"], impute="mean")
    assert evaluate(model, dataset.test).accuracy == trained.metrics["test_accuracy"]
    assert evaluate(model, Split(FRAME, FRAME["churned"].to_list())).accuracy > 0.7


def test_arrays_are_not_taken_for_columns_in_python(trained, tmp_path):
    model = load_run(trained.run)
    np.save(tmp_path / "features.npy", np.zeros((2, 6)))
    stream = stream_npy(tmp_path / "features.npy", np.array([0, 1]))
    with pytest.raises(InputError, match="trained on a table's columns, got a stream"):
        evaluate(model, stream)
    with pytest.raises(InputError, match="expected a data frame with the columns .*got ndarray"):
        predict(model, np.zeros((2, 6)))
    with pytest.warns(UserWarning, match="column 'plan': 1 cells hold words that training did not"):
        predict(model, pl.DataFrame({"age": [3], "plan": ["silver"], "paid": [True]}))
