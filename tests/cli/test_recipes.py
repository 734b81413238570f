"""The shipped recipes and `mvpnet recipes`, which lists them with what they say of themselves."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from mvpnet.cli import main
from mvpnet.config import compose, recipe_file, recipes
from mvpnet.errors import ConfigError
from mvpnet.spec.app_steps import check_steps, steps_of
from mvpnet.spec.schema import Proof

SHIPPED = sorted(path.stem for path in (compose.conf_folder() / "recipe").glob("*.yaml"))


@pytest.fixture(autouse=True)
def launch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home-config"))
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def own_recipe(folder: Path, name: str, text: str) -> Path:
    path = folder / "recipe" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_describes_itself(name: str) -> None:
    path = compose.conf_folder() / "recipe" / f"{name}.yaml"
    facts = recipe_file.facts_in(path)
    assert facts.about and facts.ranks
    assert facts.proof is not Proof.none
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", facts.proven_on or "")
    assert facts.proven_how
    assert path.read_text().splitlines()[1].startswith("# "), "a head comment"
    spec = compose.compose([f"recipe={name}"], facts.ranks)
    assert spec.config.recipe == facts
    for word in spec.config.app.command or []:
        assert "/recipe/" not in str(word) or Path(word).is_file()
    check_steps(steps_of(spec.config.app), facts.ranks)


@pytest.mark.parametrize(
    "script",
    sorted((compose.conf_folder() / "recipe").glob("*/*.sh")),
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_the_shell_takes_every_shipped_script(script: Path) -> None:
    done = subprocess.run(["sh", "-n", str(script)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.access(script, os.X_OK)


def test_nfs_measures_in_all_guests_but_the_server() -> None:
    serve, measure = steps_of(compose.compose(["recipe=nfs"], 4).config.app)
    assert (serve.ranks(4), measure.ranks(4)) == ([0], [1, 2, 3])
    more = steps_of(compose.compose(["recipe=nfs", "app.steps.measure.script.2=128"], 4).config.app)[1]
    assert (measure.argv[1:], more.argv[1:]) == (("100", "32"), ("100", "128"))
    with pytest.raises(ConfigError, match=r"app\.steps\.measure\.on: no rank of this world of 1"):
        check_steps([serve, measure], 1)


def test_what_a_recipe_says_of_itself_does_not_change_the_experiment() -> None:
    one = compose.compose(["recipe=demo"], 2)
    other = compose.compose(["recipe=demo", "recipe.proven_on='2027-01-01'"], 2)
    assert one.digest() == other.digest() != compose.compose(["recipe=demo", "net=dgram"], 2).digest()


def test_the_list_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["recipes"]) == 0
    said = capsys.readouterr().out
    assert all(re.search(rf"^ ?{name} ", said, re.MULTILINE) for name in SHIPPED)
    assert "never booted by us" in said


def test_the_list_as_json(launch_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = own_recipe(launch_folder / "mvpnet.d", "mine", "# @package _global_\nvm: {memory: 2G}\n")
    assert main.run(["recipes", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert sorted(listed) == sorted([*SHIPPED, "mine"])
    assert listed["mine"] == {
        "name": "mine",
        "path": str(mine),
        "about": None,
        "ranks": None,
        "proof": "none",
        "proven_on": None,
        "proven_how": None,
    }
    assert listed["centos9"]["proof"] == "composed"
    assert main.run(["recipes"]) == 0
    assert "it does not say" in capsys.readouterr().out


def test_the_nearer_folder_wins(launch_folder: Path) -> None:
    own_recipe(launch_folder / "home-config/mvpnet", "demo", "recipe: {about: at home}\n")
    own_recipe(launch_folder / "mvpnet.d", "demo", "recipe: {about: here}\n")
    own_recipe(launch_folder / "more", "demo", "recipe: {about: further}\n")
    own_recipe(launch_folder / "more", "other", "recipe: {about: further}\n")
    found = {recipe.name: recipe.facts.about for recipe in recipes.described(str(launch_folder / "more"))}
    assert (found["demo"], found["other"]) == ("here", "further")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("recipe: {abuot: x}\n", "abuot"),
        ("recipe: {proof: seen}\n", "seen"),
        ("recipe: [\n", "mine.yaml"),
        ("recipe: 3\n", "mine.yaml"),
    ],
)
def test_a_recipe_that_cannot_be_read_is_named(launch_folder: Path, text: str, says: str) -> None:
    own_recipe(launch_folder / "mvpnet.d", "mine", text)
    with pytest.raises(ConfigError) as caught:
        main.run(["recipes"])
    assert "mine.yaml" in str(caught.value) and says in str(caught.value)


def test_a_mistyped_recipe_gives_near_misses() -> None:
    with pytest.raises(ConfigError, match="did you mean centos9"):
        compose.compose(["recipe=centos"], 2)
