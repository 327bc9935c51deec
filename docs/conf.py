"""The site: `python -m sphinx -W --keep-going -b html docs build/site`.

Pages are Markdown that reads well on a host of repositories too. So what only the site needs stands
here: which page follows which, and where links out of this folder lead.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path

import jax
import jax.extend
from docutils import nodes
from latex2mathml.converter import convert
from sphinx import addnodes
from sphinx.application import Sphinx

import jax_softmax

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
# Where files outside this folder are shown, as `https://HOST/OWNER/NAME/blob/COMMIT`. The workflow
# sets it. Without it a link to a file leads to a copy, and one to a folder is plain text.
REPOSITORY = os.environ.get("JAX_SOFTMAX_REPOSITORY", "")

project = "jax_softmax"
author = "The jax_softmax authors"
copyright = f"2026, {author}"  # noqa: A001 (Sphinx's name)
version = release = jax_softmax.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["gallery", "**.ipynb"]
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # attributes are of the class, not entries of their own
python_maximum_signature_line_length = 80
default_role = "name-or-code"
html_math_renderer = "mathml"

html_theme = "furo"
html_title = f"jax_softmax {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
templates_path: list[str] = []


def _on_new_devices(_conf: object, _program: str) -> None:
    """Each program of the gallery finds the devices of a new process, and may ask for others."""
    jax.extend.backend.clear_backends()
    jax.config.update("jax_num_cpu_devices", -1)


def _has_mnist() -> bool:
    try:
        jax_softmax.load_dataset("mnist")
    except jax_softmax.InputError:
        return False
    return True


logging.getLogger("jax").setLevel(logging.WARNING)  # else it tells of each TPU that is not there
suppress_warnings = ["config.cache"]  # a function among the settings
sphinx_gallery_conf = {
    "examples_dirs": "gallery",
    "gallery_dirs": "auto_gallery",
    # Without MNIST and a network, that program is shown and not run.
    "filename_pattern": "/plot_" if _has_mnist() else "/plot_(?!mnist)",
    "reset_modules": ("matplotlib", _on_new_devices),
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "show_memory": False,
    "show_signature": False,
    "download_all_examples": False,
    "write_computation_times": False,
    "min_reported_time": 60,  # seconds
}

# The order of the pages, under the heading of each part; what is not there is left out.
PARTS = {
    "Guide": (
        "guide",
        "classifier",
        "losses",
        "linear_loss",
        "log-probs",
        "distillation",
        "recipes",
        "training",
        "own-data",
        "looking",
        "scale",
        "exactness",
        "performance",
    ),
    "Learn": ("tutorial", "tutorial.zh", "derivation", "auto_gallery/index", "coming-from/*"),
    "Reference": (
        "api/index",
        "benchmarks/README",
        "benchmarks/*",
        "changelog",
        "policy",
        "citing",
        "contributing",
    ),
}
# Pages that are files of the root.
OF_THE_ROOT = {"changelog": "CHANGELOG.md", "contributing": "CONTRIBUTING.md"}
# Where links out of the pages lead, if they have a page of their own.
HOMES = {ROOT / file: DOCS / f"{page}.md" for page, file in OF_THE_ROOT.items()}
HOMES[ROOT / "README.md"] = DOCS / "index.md"


def _toctrees() -> str:
    text = ""
    for caption, pages in PARTS.items():
        kept = []
        for page in pages:
            found = [path for path in DOCS.glob(f"{page}.*") if path.suffix in (".md", ".rst")]
            kept += sorted(str(path.relative_to(DOCS).with_suffix("")) for path in found)
        listed = "\n".join(dict.fromkeys(kept))
        text += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{listed}\n```\n"
    return text


def _link(text: str, link: str, folder: Path, page: Path) -> str:
    """A Markdown link of a file in `folder`, as `page` needs it."""
    name, hash_, fragment = link.partition("#")
    if "://" in link or not name:
        return f"[{text}]({link})"
    target = (folder / name).resolve()
    if target.parent == DOCS / "gallery" and target.suffix == ".py":
        target = DOCS / "auto_gallery" / f"{target.stem}.rst"
    elif target == DOCS / "gallery":
        target = DOCS / "auto_gallery" / "index.rst"
    target = HOMES.get(target, target)
    inside = DOCS in target.parents and not target.is_dir()
    if not inside and REPOSITORY and ROOT in target.parents:
        return f"[{text}]({REPOSITORY}/{target.relative_to(ROOT)}{hash_}{fragment})"
    if target.is_dir():
        return text
    return f"[{text}]({os.path.relpath(target, page.parent)}{hash_}{fragment})"


def _read(app: Sphinx, docname: str, source: list[str]) -> None:
    """What is done to a page's text before it is parsed."""
    page = Path(app.env.doc2path(docname))
    if page.suffix != ".md":
        return
    folder = page.parent
    if docname in OF_THE_ROOT:
        file = ROOT / OF_THE_ROOT[docname]
        app.env.note_dependency(str(file))
        source[0], folder = file.read_text(encoding="utf-8"), ROOT

    def rewritten(match: re.Match[str]) -> str:
        return _link(match[1], match[2], folder, page)

    source[0] = re.sub(r"(?<!!)\[((?:[^\[\]]|\[[^\]]*\])+)\]\(([^)\s]+)\)", rewritten, source[0])
    if docname == "index":
        source[0] += _toctrees()


def _name_or_code(name, rawtext, text, lineno, inliner, options=None, content=None):
    """`text`: a link where it is a public name, and code elsewhere."""
    literal = nodes.literal(rawtext, text)
    if text not in jax_softmax._HOME_OF:
        return [literal], []
    reference = addnodes.pending_xref(
        rawtext,
        literal,
        refdomain="py",
        reftype="obj",
        reftarget=f"jax_softmax.{text}",
        refdoc=inliner.document.settings.env.docname,
        refexplicit=True,
        refwarn=True,
    )
    return [reference], []


def _attributes(app: Sphinx, what, name, obj, options, lines: list[str]) -> None:
    """Names of attributes that end as scikit-learn's do: an underscore is not a reference's."""
    lines[:] = [re.sub(r"^:ivar (\w+)_:", r":ivar \1\\_:", line) for line in lines]


def _math(self, node: nodes.math) -> None:
    """MathML, which browsers draw themselves: nothing is loaded from elsewhere."""
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _math_block(self, node: nodes.math_block) -> None:
    self.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>\n')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """What Sphinx calls."""
    app.add_html_math_renderer("mathml", (_math, None), (_math_block, None))
    app.add_role("name-or-code", _name_or_code)
    app.connect("source-read", _read)
    app.connect("autodoc-process-docstring", _attributes, priority=900)  # after napoleon
