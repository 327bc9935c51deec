"""The page: all of it inside one file, names escaped, readable in a browser."""

from __future__ import annotations

import base64
import dataclasses
import html.parser
import io
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from jax_softmax import Split, TrainConfig, evaluate, fit
from jax_softmax.report import examine, report_page

NAMES = ("cat", "<script>alert('eel')</script>", 'a "$dog$" & co')
METRICS = {"dataset": "pets", "split_seed": 0, "versions": {"jax": "<i>1</i>"}, "sha256": "5ea1"}


def split_of(shape, dtype, scale):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = rng.integers(0, 120, (60, *shape)) + 40 * labels.reshape(-1, *[1] * len(shape))
    return Split(features.astype(dtype), labels, NAMES, scale)


def page_of(split, **config):
    result = fit(split, TrainConfig(batch_size=8, epochs=20, **config), validation=split)
    evaluation = dataclasses.replace(evaluate(result, split), of="test examples")
    seen = examine(result, split, evaluation)
    result = dataclasses.replace(result, compile_seconds=1.0, train_seconds=2.0)
    return seen, report_page(result, METRICS, seen, data="pets & co", source="<made up>")


@pytest.fixture(scope="module")
def images():
    return page_of(split_of((6, 5), np.uint8, 1 / 255), learning_rate=0.2)


@pytest.fixture(scope="module")
def table():
    return page_of(split_of((4,), np.float64, 1 / 255), learning_rate=0.2)


class Elements(html.parser.HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.text += " " * (tag in ("td", "div"))

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.mark.parametrize("kind", ["images", "table"])
def test_nothing_comes_from_elsewhere(kind, request):
    _, page = request.getfixturevalue(kind)
    elements = Elements(page)
    assert {tag for tag, _ in elements.tags} & {"script", "link", "iframe", "object"} == set()
    for _, attributes in elements.tags:
        assert not {name for name in attributes if name.startswith("on")}
    assert len(elements.of("img")) >= 4
    for picture in elements.of("img"):
        kind, _, data = picture["src"].partition(",")
        assert kind == "data:image/png;base64" and picture["alt"]
        with Image.open(io.BytesIO(base64.b64decode(data))) as image:
            image.verify()
    assert not re.search(r"url\(|@import|https?://", page)


@pytest.mark.parametrize("kind", ["images", "table"])
def test_names_are_text(kind, request):
    _, page = request.getfixturevalue(kind)
    elements = Elements(page)
    for name in (*NAMES, "pets & co", "<made up>", "<i>1</i>"):
        assert name in elements.text
    assert elements.of("i") == []


def test_the_table_has_each_class_with_its_worst_confusion(images):
    seen, page = images
    text = " ".join(Elements(page).text.split())
    counts = seen.evaluation.confusion()
    for i, record in enumerate(seen.evaluation.per_class()):
        row = f"{record['class_name']} {record['precision']:.3f} {record['recall']:.3f} "
        row += f"{record['f1']:.3f} {record['support']} "
        wrong = counts[i] * (np.arange(3) != i)
        row += f"{NAMES[wrong.argmax()]} ({wrong.max()} of 20)" if wrong.any() else "–"
        assert row in text
    assert f"{seen.calibration_error:.4f}expected calibration error" in text
    assert f"{seen.evaluation.accuracy:.2%}of 60 test examples right" in text


def test_mistakes_are_pictures_of_the_examples(images):
    seen, page = images
    elements = Elements(page)
    shown = [tag for tag in elements.of("img") if tag["alt"].startswith("Example ")]
    assert len(shown) == len(seen.mistakes) > 0
    for tag, mistake in zip(shown, seen.mistakes, strict=True):
        assert tag["alt"] == f"Example {mistake.row}"
        with Image.open(io.BytesIO(base64.b64decode(tag["src"].partition(",")[2]))) as image:
            np.testing.assert_array_equal(np.asarray(image), mistake.features.reshape(6, 5))


def test_mistakes_of_a_table_are_rows(table):
    seen, page = table
    text = " ".join(Elements(page).text.split())
    for mistake in seen.mistakes:
        row = f"{mistake.row} {NAMES[mistake.prediction]} {mistake.confidence:.4f} "
        assert row + f"{NAMES[mistake.label]} {mistake.label_probability:.4f}" in text
    assert "Largest coefficients" in text and "Weights" not in text


@pytest.mark.parametrize("shape", [(4, 5, 3), (2, 3, 2, 5)])
def test_images_of_other_shapes(shape):
    _, page = page_of(split_of(shape, np.uint8, 1 / 255))
    shown = [tag["alt"] for tag in Elements(page).of("img")]
    assert "The weights of each class as an image" in shown
    assert any(alt.startswith("Example ") for alt in shown) == (len(shape) == 3)


def test_the_same_run_gives_the_same_page(table):
    assert page_of(split_of((4,), np.float64, 1 / 255), learning_rate=0.2)[1] == table[1]


def test_feature_names_are_drawn():
    from jax_softmax.report.figures import coefficients

    split = split_of((4,), np.float64, 1 / 255)
    result = fit(split, TrainConfig(epochs=2))
    spreads = np.array([1.0, 5.0, 0.1, 0.0])
    axes = coefficients(result, spreads, ["a $", "b", "c", "d"]).axes[0]
    said = [tick.get_text() for tick in axes.get_yticklabels()]
    kernel = np.asarray(result.params["kernel"])
    moved = (kernel - kernel.mean(axis=1, keepdims=True)) * spreads[:, None]
    order = np.argsort(-np.abs(moved).max(axis=1), kind="stable")
    assert said == [[r"a \$", "b", "c", "d"][i] for i in order]
    np.testing.assert_allclose(axes.images[0].get_array(), moved[order], rtol=1e-6)


BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize(
    ("kind", "width", "dark"),
    [("images", 1200, True), ("images", 500, False), ("table", 500, True)],
)
def test_a_browser_shows_it_without_complaint(kind, width, dark, request, tmp_path):
    _, page = request.getfixturevalue(kind)
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    done = subprocess.run(
        [
            BROWSER,
            *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--enable-logging=stderr",
            f"--window-size={width},3000",
            f"--screenshot={tmp_path / 'seen.png'}",
            (tmp_path / "page.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr  # where it says what it refused or could not load
    with Image.open(tmp_path / "seen.png") as image:
        seen = np.asarray(image.convert("RGB")).astype(int)
    assert seen.shape[1] == width
    background = seen[0, 0]
    assert (background.max() < 64) == dark
    assert (seen[:, -8:] == background).all(), "something sticks out on the right"
    blue = (abs(seen - [31, 119, 180]) < 3).all(axis=2)
    assert blue[: len(seen) // 2].any(), "the learning curve is not shown"
