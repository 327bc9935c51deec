"""The pages: their Python runs and prints what it says, their commands work, their links lead on.

In a block of Python, a comment on a line of its own is what the block prints.
"""

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    "README.md",
    "docs/index.md",
    "docs/losses.md",
    "docs/log-probs.md",
    "docs/training.md",
    "docs/looking.md",
    "docs/classifier.md",
)
EVERY_PAGE = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])


def text(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text(page), re.M | re.S)


def digits(line):
    """A line whose numbers do not matter: another machine's, or another source's of the data."""
    return re.sub(r"\d+", "0", line)


def in_folder(tmp_path, monkeypatch):
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("page", "number"), [(page, n) for page in PAGES for n in range(len(blocks(page, "python")))]
)
def test_python_prints_what_the_page_says(page, number, capsys, tmp_path, monkeypatch):
    program = blocks(page, "python")[number]
    if "mnist" in program and not os.environ.get("JAX_SOFTMAX_RAW_DIR"):
        pytest.skip("needs MNIST: set JAX_SOFTMAX_RAW_DIR")
    in_folder(tmp_path, monkeypatch)
    exec(compile(program, f"{page}, block {number + 1}", "exec"), {"__name__": "page"})
    said = [line.removeprefix("# ") for line in program.splitlines() if line.startswith("#")]
    assert capsys.readouterr().out.splitlines() == said


class Recorder:
    """Stands for a writer of TensorBoard or a run of W&B: keeps what it is told."""

    def __init__(self, *_arguments, **_options):
        self.told = []
        Recorder.last = self

    def __enter__(self):
        return self

    def __exit__(self, *_arguments):
        pass

    def add_scalar(self, name, value, step):
        self.told.append((step, name, value))

    def log(self, values, step):
        self.told += [(step, name, value) for name, value in values.items()]


@pytest.mark.parametrize("number", range(2))
def test_recipes_tell_another_library_each_epoch(number, tmp_path, monkeypatch):
    """With stand-ins, for neither library is a dependency."""
    in_folder(tmp_path, monkeypatch)
    monkeypatch.delenv("JAX_SOFTMAX_RAW_DIR", raising=False)
    for module, name in (("tensorboardX", "SummaryWriter"), ("wandb", "init")):
        stand_in = types.ModuleType(module)
        setattr(stand_in, name, Recorder)
        monkeypatch.setitem(sys.modules, module, stand_in)
    program = blocks("docs/training.md", "py")[number]
    exec(compile(program, f"recipe {number + 1}", "exec"), {"__name__": "page"})
    losses = [(step, value) for step, name, value in Recorder.last.told if name == "train_loss"]
    assert [step for step, _ in losses] == list(range(1, 11))
    assert losses[0][1] > losses[-1][1] > 0
    assert "validation_accuracy" in {name for _, name, _ in Recorder.last.told}


@pytest.mark.slow
def test_commands_of_the_readme_print_what_it_says(tmp_path, monkeypatch):
    in_folder(tmp_path, monkeypatch)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # Of one device, as a user's: tests/conftest.py has set eight.
    environment = {
        **os.environ,
        "PATH": path,
        "XLA_FLAGS": os.environ["JAX_SOFTMAX_TEST_USER_FLAGS"],
        "PYTHONPATH": str(ROOT),
    }
    ran = 0
    for lines in map(str.splitlines, blocks("README.md", "console")):
        commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        shown = {digits(line) for line in lines if not line.startswith(("$ ", "..."))}
        done = subprocess.run(
            ["bash", "-euc", "\n".join(commands)], env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert shown <= {digits(line) for line in done.stdout.splitlines()}
        ran += len(commands)
    assert ran > 2


def test_readme_is_short_and_starts_with_the_example():
    assert len(text("README.md").splitlines()) <= 150
    first = re.search(r"^```(\w+)\n", text("README.md"), re.M)
    assert first[1] == "python"


def anchors(page):
    """The fragments of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    for link in links:
        if link.startswith("http"):
            continue
        name, _, fragment = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if fragment:
            assert fragment in anchors(target), link


def test_every_page_can_be_reached_from_the_readme():
    seen, ahead = set(), [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        found = re.findall(r"\]\(([^)\s#]+\.md)", page.read_text(encoding="utf-8"))
        ahead += [(page.parent / link).resolve() for link in found if "://" not in link]
    assert set(EVERY_PAGE) <= seen
