"""The pages for contributors name files that exist, and CITATION.cff is of this version."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import mvpnet

ROOT = Path(__file__).parent.parent
PAGES = ("docs/architecture.md", "CONTRIBUTING.md")
SPAN = re.compile(r"`([^`\n]+)`")
# Segments begin with a letter, an underscore or a dot: no network such as 10.0.0.0/8, and no absolute path.
SLASHED = re.compile(r"(?:[A-Za-z_.][\w.-]*/)+(?:[A-Za-z_.][\w.-]*)?")
# A bare name is a file of the repository by its suffix; job.json and the like are files of a run folder.
BARE = re.compile(r"[\w.-]+\.(?:py|c|md|cff|toml|ya?ml|sh)")
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[\w-]*)?\)")


def paths_in(page: str) -> list[str]:
    """Each path in backticks, outside of blocks of code, once and in order."""
    prose = "\n".join(line for line in (ROOT / page).read_text().splitlines() if not line.startswith("    "))
    return list(dict.fromkeys(word for word in SPAN.findall(prose) if SLASHED.fullmatch(word) or BARE.fullmatch(word)))


@pytest.mark.parametrize("page", PAGES)
def test_each_path_on_a_page_exists(page: str) -> None:
    named = paths_in(page)
    assert len(named) > 20, "is the pattern out of date?"
    assert [path for path in named if not ((ROOT / path).exists() or (ROOT / "mvpnet" / path).exists())] == []


@pytest.mark.parametrize("page", [*PAGES, "SECURITY.md", "README.md"])
def test_each_link_to_a_file_leads_somewhere(page: str) -> None:
    targets = [target for target in LINK.findall((ROOT / page).read_text()) if "://" not in target]
    assert targets
    assert [target for target in targets if not ((ROOT / page).parent / target).exists()] == []


def test_every_package_is_on_the_map() -> None:
    packages = {f"{path.parent.name}/" for path in (ROOT / "mvpnet").glob("*/__init__.py")}
    assert packages - set(paths_in("docs/architecture.md")) == set()


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "abstract", "authors", "license", "version", "keywords"} <= set(citation)
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == mvpnet.__version__
