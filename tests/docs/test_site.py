"""The site: built by the command of CONTRIBUTING without a warning, whole, and from here alone."""

import importlib.util
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import jax_softmax

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("furo", "latex2mathml", "myst_parser", "sphinx", "sphinx_gallery")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"pip install '.[docs]': {', '.join(MISSING)}"),
]


@pytest.fixture(scope="module")
def site():
    """What the command of CONTRIBUTING builds, where it builds it."""
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^\.venv/bin/python (-m sphinx .* docs (\S+))", contributing, re.M)
    arguments, folder = command
    one = re.sub(r"device_count=\d+", "device_count=1", os.environ["XLA_FLAGS"])
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths.rstrip(os.pathsep), "XLA_FLAGS": one}
    done = subprocess.run(
        [sys.executable, *arguments.split(), "--fresh-env"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return ROOT / folder


def pages(site):
    return sorted(path for path in site.rglob("*.html") if "_modules" not in path.parts)


def inventory(site):
    """The names that the site documents, by Sphinx's own list: a head, then zlib's lines."""
    head, _, packed = (site / "objects.inv").read_bytes().partition(b"using zlib.\n")
    assert head.startswith(b"# Sphinx inventory version 2")
    lines = zlib.decompress(packed).decode().splitlines()
    return {line.split()[0] for line in lines if " py:" in line}


def test_every_public_name_is_documented(site):
    public = {f"jax_softmax.{name}" for name in jax_softmax._HOME_OF}
    assert public <= inventory(site)


def test_every_page_has_a_place_in_the_contents(site):
    contents = (site / "index.html").read_text(encoding="utf-8")
    listed = set(re.findall(r'class="reference internal" href="([^"#]+)"', contents))
    written = {path.relative_to(ROOT / "docs") for path in (ROOT / "docs").rglob("*.md")}
    wanted = {str(path.with_suffix(".html")) for path in written} - {"index.html"}
    assert wanted <= listed


def test_nothing_is_loaded_from_elsewhere(site):
    loads = r'<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)="(https?:)?//'
    found = [str(path) for path in pages(site) if re.search(loads, path.read_text("utf-8"))]
    assert pages(site) and found == []
    styles = [path.read_text("utf-8") for path in site.rglob("*.css")]
    assert not [style for style in styles if re.search(r"url\([\"']?https?:|@import", style)]


def test_mathematics_is_drawn_by_the_browser(site):
    page = (site / "api" / "logits.html").read_text(encoding="utf-8")
    assert "<math " in page and ":math:" not in page and r"\sum" not in page


def test_links_out_of_the_pages_lead_somewhere(site):
    """To another page, or to a copy of a file; those of the host are not followed."""
    broken = []
    for path in pages(site):
        for link in re.findall(r'<a [^>]*href="([^"#?]+)', path.read_text(encoding="utf-8")):
            if "://" not in link and not link.startswith("mailto:"):
                broken += [link] if not (path.parent / link).resolve().exists() else []
    assert broken == []


def has_mnist():
    try:
        jax_softmax.load_dataset("mnist")
    except jax_softmax.InputError:
        return False
    return True


def test_the_gallery_has_pictures(site):
    scripts = sorted((ROOT / "docs" / "gallery").glob("plot_*.py"))
    assert scripts
    for script in scripts:
        if script.stem == "plot_mnist_mistakes" and not has_mnist():
            continue  # shown, and not run
        assert list((site / "_images").glob(f"sphx_glr_{script.stem}_001*.png")), script.name
        assert len(script.read_text(encoding="utf-8").splitlines()) < 80
