"""Sphinx: a site of all pages, which stay the Markdown that the repository host shows. `make docs` builds it.

The pages are read where they are, from the top of the repository, so that their links hold there and here. What only
the site has is added while they are read: the table of contents to the README, the reference to docs/api.md.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import mvpnet  # noqa: E402

project = "mvpnet"
copyright = "the mvpnet authors"
version = release = mvpnet.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
root_doc = "README"
include_patterns = ["*.md", "docs/**.md", "recipes/README.md"]
exclude_patterns = [".*"]  # such as .costs.md of make test-costs
html_theme = "furo"
html_title = f"mvpnet {release}"
html_copy_source = False

myst_heading_anchors = 4  # as the repository host gives them
default_role = "code"  # one backtick, as in Markdown
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
python_maximum_signature_line_length = 90

CONTENTS = {
    "Use": (
        "configuration images cloud-init recipes experiments hands-on snapshots records doctor bench cluster "
        "reliability security performance scale"
    ),
    "From Python": "api",
    "Reports": "reports/README reports/iperf/README reports/mpi-latency/README reports/nfs/README",
    "Contribute": "architecture dataplane testing",
}
MORE = {
    "Use": ["Writing a recipe <recipes/README>"],
    "Contribute": ["CONTRIBUTING", "SECURITY", "CHANGELOG"],
}
REFERENCE = """

## Reference

```{eval-rst}
.. autofunction:: mvpnet.compose

.. autofunction:: mvpnet.open_run

.. autoclass:: mvpnet.Run
   :members:
   :exclude-members: __init__, __new__

.. autoclass:: mvpnet.TableRow
   :members:
   :undoc-members:
   :exclude-members: __init__, __new__

.. automodule:: mvpnet.records.typed
   :members:
   :undoc-members:
   :exclude-members: read_as, T

.. autoclass:: mvpnet.JobSpec
   :members:
   :exclude-members: __init__, __new__

.. autoclass:: mvpnet.spec.model.RankSpec
   :members:
   :exclude-members: __init__, __new__

.. autoclass:: mvpnet.paths.RunFolder
   :members:
   :exclude-members: __init__, __new__

.. autoexception:: mvpnet.MvpnetError
   :exclude-members: __init__, __new__

.. autoexception:: mvpnet.ConfigError
   :exclude-members: __init__, __new__
```
"""


def contents() -> str:
    """The site's table of contents."""
    parts = []
    for caption, pages in CONTENTS.items():
        names = [*(f"docs/{name}" for name in pages.split()), *MORE.get(caption, [])]
        parts.append("\n".join(["", "```{toctree}", ":hidden:", f":caption: {caption}", "", *names, "```", ""]))
    return "\n".join(parts)


def add_what_only_the_site_has(app: Sphinx, page: str, source: list[str]) -> None:
    if page == root_doc:
        source[0] += contents()
    elif page == "docs/api":
        source[0] += REFERENCE


def make_the_readme_the_first_page(app: Sphinx, error: Exception | None) -> None:
    if error is None:
        shutil.copyfile(app.outdir / "README.html", app.outdir / "index.html")


def setup(app: Sphinx) -> None:
    app.connect("source-read", add_what_only_the_site_has)
    app.connect("build-finished", make_the_readme_the_first_page)
