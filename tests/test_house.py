"""Every test can fail: each asserts something, itself or by a function of these tests that does."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TREES = {path: ast.parse(path.read_text()) for path in sorted(TESTS.rglob("*.py"))}
FILES = [path for path in TREES if path.name.startswith("test_")]
# Functions of other modules that raise where a claim does not hold.
RAISING = ("assert_", "check_grads", "raises", "fail", "warns")


def definitions(tree):
    """A file's functions and what it assigns, a partial application say, by name."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            yield node.targets[0].id, node


def asserts_itself(definition):
    for node in ast.walk(definition):
        name = getattr(node, "id", None) or getattr(node, "attr", "")
        if isinstance(node, ast.Assert) or name.startswith(RAISING):
            return True
    return False


def names(definition):
    """What it uses by name, a function's fixtures too."""
    return {
        getattr(node, "id", None) or getattr(node, "arg", None) for node in ast.walk(definition)
    } - {None}


def asserting(tree, known=frozenset()):
    """The names of a file's definitions that assert, through one another or those known."""
    found = {name for name, f in definitions(tree) if asserts_itself(f)}
    while more := {name for name, f in definitions(tree) if names(f) & (found | known)} - found:
        found |= more
    return found


SHARED = frozenset().union(*(asserting(tree) for path, tree in TREES.items() if path not in FILES))


def without_a_claim(tree):
    claiming = asserting(tree, SHARED)
    return [n for n, _ in definitions(tree) if n.startswith("test_") and n not in claiming]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_every_test_asserts_something(path):
    assert without_a_claim(TREES[path]) == []


def test_a_test_without_a_claim_is_seen():
    text = """
def test_a(): ran()
def test_b(): assert ran()
def test_c(): claim()
def claim(): assert_close(1, 1)
"""
    assert without_a_claim(ast.parse(text)) == ["test_a"]
