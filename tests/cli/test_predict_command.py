"""`jax-softmax predict`: arrays, tables and pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jax_softmax import load_dataset, load_run, predict, predict_proba


@pytest.fixture
def records(command):
    """Runs `jax-softmax predict` and returns its records."""

    def of(run, file):
        outcome = command("predict", run, file, "--json", "records.json")
        assert (outcome.code, outcome.err) == (0, "")
        return json.loads(Path("records.json").read_text())

    return of


@pytest.fixture(scope="session")
def digits_test():
    return load_dataset("digits").test


def _classes(found):
    return [record["class_index"] for record in found]


def test_records_are_those_of_the_functions(digits, digits_test, records):
    model = load_run(digits.run)
    np.save("digits.npy", digits_test.features)
    found = records(digits.run, "digits.npy")
    assert [record["row"] for record in found] == list(range(360))
    np.testing.assert_array_equal(_classes(found), predict(model, digits_test.features))
    probabilities = predict_proba(model, digits_test.features).max(axis=1)
    assert [record["probability"] for record in found] == probabilities.tolist()
    assert found[0].keys() == {"row", "class_index", "class_name", "probability"}
    assert all(isinstance(v, str | int | float) for r in found for v in r.values())


@pytest.mark.parametrize("shape", [(5, 8, 8), (5, 64), (5, 8, 8, 1)])
def test_an_array_of_any_shape_with_that_width(shape, digits, digits_test, records):
    features = digits_test.features[:5]
    np.save("digits.npy", features.reshape(shape))
    expected = predict(load_run(digits.run), features)
    np.testing.assert_array_equal(_classes(records(digits.run, "digits.npy")), expected)


@pytest.mark.parametrize("scale", [1 / 16, -1.0, 16.0])
def test_pixels_that_seem_scaled_otherwise_are_pointed_out(scale, digits, digits_test, command):
    np.save("scaled.npy", digits_test.features[:5] * scale)
    outcome = command("predict", digits.run, "scaled.npy")
    assert outcome.code == 0
    assert "trained on pixels from 0 to 16; are these scaled otherwise?" in outcome.err


def test_pixels_of_two_values_are_nothing_to_speak_of(digits, digits_test, command):
    np.save("bytes.npy", np.minimum(digits_test.features[:5], 1).astype(np.uint8))
    assert command("predict", digits.run, "bytes.npy").err == ""


def test_an_array_that_is_one_example(digits, digits_test, records):
    np.save("digit.npy", digits_test.features[3])
    expected = predict(load_run(digits.run), digits_test.features[3:4])
    assert _classes(records(digits.run, "digit.npy")) == expected.tolist()


@pytest.mark.parametrize(
    "header", ["", "sepal length,sepal width,petal length,petal width\n", "a,b,c,d\n", "\ufeff"]
)
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\n\n"])
def test_a_table_with_or_without_a_header(header, ending, iris, iris_rows, records):
    rows = "".join(",".join(map(str, row)) + ending for row in iris_rows)
    Path("table.csv").write_bytes((header + rows).encode())
    found = records(iris.run, "table.csv")
    names = [record["class_name"] for record in found]
    assert names == ["Iris-setosa", "Iris-versicolor", "Iris-virginica"]
    np.testing.assert_array_equal(
        [record["probability"] for record in found],
        predict_proba(load_run(iris.run), iris_rows).max(axis=1),
    )


def test_a_table_is_printed(iris, iris_rows, command):
    np.savetxt("table.csv", iris_rows, delimiter=",")
    outcome = command("predict", iris.run, "table.csv")
    header, *lines = outcome.out.splitlines()
    assert header.split() == ["row", "class", "probability"]
    assert [line.split()[:2] for line in lines] == [
        ["0", "Iris-setosa"],
        ["1", "Iris-versicolor"],
        ["2", "Iris-virginica"],
    ]
    assert all(0 < float(line.split()[2]) <= 1 for line in lines)


def test_the_suffix_may_be_in_capitals(iris, iris_rows, records):
    np.savetxt("table.CSV", iris_rows, delimiter=",")
    assert len(records(iris.run, "table.CSV")) == 3


def test_a_picture_of_8_by_8_is_read_in_the_datasets_sixteenths(digits, digits_test, records):
    # The picture's pixels run to 255, the dataset's to 16: half a pixel of rounding is 0.03 of 16.
    model = load_run(digits.run)
    for index in range(3):
        pixels = np.round(digits_test.features[index] / 16 * 255).astype(np.uint8)
        Image.fromarray(pixels).save("digit.png")
        (found,) = records(digits.run, "digit.png")
        expected = predict_proba(model, digits_test.features[index : index + 1])[0]
        assert found["class_index"] == expected.argmax()
        assert found["probability"] == pytest.approx(expected.max(), abs=0.02)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_a_picture_of_mnist_gives_what_its_array_gives(mode, mnist, mnist_test, records):
    image = mnist_test.features[0]
    Image.fromarray(image).convert(mode).save("seven.png")
    np.save("seven.npy", image)
    (from_picture,) = records(mnist.run, "seven.png")
    (from_array,) = records(mnist.run, "seven.npy")
    assert from_picture["class_name"] == from_array["class_name"] == "7"
    # The pixels go through float32 once: an eps or two of the probability.
    assert from_picture["probability"] == pytest.approx(from_array["probability"], rel=1e-6)


def test_prediction_writes_nothing_of_its_own(iris, iris_rows, command, tree, cwd):
    np.save("table.npy", iris_rows)
    before = tree(cwd), tree(iris.run)
    assert command("predict", iris.run, "table.npy").code == 0
    assert (tree(cwd), tree(iris.run)) == before


def test_a_first_line_with_a_slip_is_no_header(iris, command):
    file = Path("flowers.csv")
    file.write_text("4.9,3.0,1.4,O.2\n5.9,3.0,5.1,1.8\n")
    outcome = command("predict", iris.run, file)
    assert outcome.code == 2
    assert "line 1, column 4: expected a finite number, but it is 'O.2'." in outcome.err


def test_a_first_line_of_words_and_a_number_is_a_header_and_said_once_to_be_one(iris, command):
    file = Path("flowers.csv")
    file.write_text("length,width,3,4\n5.9,3.0,5.1,1.8\n")
    outcome = command("predict", iris.run, file)
    assert outcome.code == 0
    assert outcome.err.count("line 1: taken as a header (column 1 is 'length')") == 1


def test_a_column_of_labels_is_pointed_out(iris, command):
    file = Path("flowers.csv")
    file.write_text("a,b,c,d,class\n5.9,3.0,5.1,1.8,setosa\n")
    outcome = command("predict", iris.run, file)
    assert outcome.code == 2
    assert "flowers.csv, line 2: expected 4 numbers" in outcome.err
    assert "Leave out the column of labels" in outcome.err


def test_an_image_of_16_bits_is_refused(digits, command):
    Image.fromarray(np.full((8, 8), 20000, np.uint16)).save("deep.png")
    outcome = command("predict", digits.run, "deep.png")
    assert outcome.code == 2
    assert "expected an image of 8 bits a channel" in outcome.err
