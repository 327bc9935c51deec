"""What a version is called: in the package, the changelog, the citation and the pages."""

import datetime
import re
import tomllib
from pathlib import Path

import pytest

import jax_softmax

ROOT = Path(__file__).resolve().parents[2]
VERSION = jax_softmax.__version__
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
HEADINGS = re.findall(r"^## \[?([\d.]+)\]? - (\d{4}-\d\d-\d\d)$", CHANGELOG, re.MULTILINE)
# Those of Keep a Changelog.
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.fixture(scope="module")
def citation():
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_the_changelog_starts_with_this_version():
    assert HEADINGS[0][0] == VERSION
    dates = [datetime.date.fromisoformat(date) for _, date in HEADINGS]
    assert dates == sorted(dates, reverse=True) and len(HEADINGS) > 1


def test_the_changelog_has_the_kinds_of_keep_a_changelog():
    parts = re.split(r"^## .*$", CHANGELOG, flags=re.MULTILINE)[1:]
    assert len(parts) == len(HEADINGS)
    for part in parts:
        kinds = re.findall(r"^### (.*)$", part, re.MULTILINE)
        assert kinds and set(kinds) <= KINDS and len(set(kinds)) == len(kinds)


def test_the_citation_has_what_its_format_requires(citation):
    """The keys that the schema of version 1.2.0 requires, and those that name a release."""
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["message"] and citation["title"]
    assert all(set(author) == {"name"} for author in citation["authors"])


def test_the_citation_is_of_this_version(citation):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (str(citation["version"]), str(citation["date-released"])) == HEADINGS[0]
    assert citation["license"] == project["license"]
    assert [author["name"] for author in citation["authors"]] == [
        author["name"] for author in project["authors"]
    ]


def test_the_page_on_citing_is_of_this_version(citation):
    page = (ROOT / "docs" / "citing.md").read_text(encoding="utf-8")
    said = dict(re.findall(r"^  (\w+) += \{(.*)\},$", page, re.MULTILINE))
    assert (said["version"], said["date"]) == HEADINGS[0]
    assert said["license"] == citation["license"]
    assert said["title"].replace("\\", "") == citation["title"]
    assert said["author"].strip("{}").replace("\\", "") == citation["authors"][0]["name"]
