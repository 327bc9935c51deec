"""Each public name says what it does, with an example that runs and where its relatives are."""

import inspect
import re

import pytest

import jax_softmax

NAMES = sorted(jax_softmax._HOME_OF)
FUNCTIONS = [name for name in NAMES if inspect.isfunction(getattr(jax_softmax, name))]
OF_OPS = [name for name in FUNCTIONS if name in jax_softmax._HOMES["ops"]]


def docstring(name):
    return inspect.getdoc(getattr(jax_softmax, name))


def sections(text):
    """The lines under each heading (`Args:`), by its name."""
    found, under = {}, None
    for line in text.splitlines():
        if heading := re.fullmatch(r"([A-Z][A-Za-z ]+):", line):
            under = found.setdefault(heading[1], [])
        elif under is not None and (line.startswith("  ") or not line):
            under.append(line)
        else:
            under = None
    return {heading: "\n".join(lines) for heading, lines in found.items()}


def described(text):
    """The names that a section of arguments has."""
    return re.findall(r"^  \**(\w+):", text, re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_there_is_an_example(name):
    """`--doctest-modules` runs what starts so."""
    assert re.search(r"^>>> ", docstring(name), re.MULTILINE)


@pytest.mark.parametrize("name", NAMES)
def test_relatives_are_public_names(name):
    named = set(re.findall(r"`([\w.]+)`", sections(docstring(name))["See Also"]))
    assert named & set(NAMES) - {name}
    assert named - set(NAMES) <= {"C", "axis_name", "jax.shard_map"}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_is_described(name):
    parameters = inspect.signature(getattr(jax_softmax, name)).parameters
    assert sorted(described(sections(docstring(name))["Args"])) == sorted(parameters)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_returned_and_raised_is_said(name):
    said = sections(docstring(name))
    assert said["Returns"].strip()
    assert set(described(said["Raises"])) & {"TypeError", "ValueError", "InputError"}


@pytest.mark.parametrize("name", OF_OPS)
def test_a_function_of_arrays_has_a_formula_shapes_and_a_source(name):
    text = docstring(name)
    assert ":math:`" in text
    assert re.search(r"`\[.*\]`", sections(text)["Args"]) or name == "summarize"  # takes statistics
    source = re.search(r"\n\nSource: (.*?)\n\n", text, re.DOTALL)[1]
    assert re.search(r"arXiv:\d{4}\.\d{5}|\b(19|20)\d\d\)", source)


@pytest.mark.parametrize("name", OF_OPS)
def test_the_dtype_of_results_is_said(name):
    said = sections(docstring(name))["Returns"]
    elsewhere = ("What `linear_softmax_cross_entropy` returns", "as from `top_k_log_probs`")
    assert re.search(r"dtype|float32|int32", said) or any(words in said for words in elsewhere)


def test_what_is_missing_is_seen():
    text = "It.\n\nArgs:\n  x: one.\n    More: of it.\n  **y: all.\n\nSee Also:\n  `z`.\n\n>>> 1"
    assert sections(text).keys() == {"Args", "See Also"}
    assert described(sections(text)["Args"]) == ["x", "y"]
