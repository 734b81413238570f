"""A text where a mapping or a list is wanted is refused with how to write it, through Hydra."""

from __future__ import annotations

from pathlib import Path

import pytest

from mvpnet.config import compose
from mvpnet.errors import ConfigError

MAPPINGS = [
    "cloud_init.user_data",
    "cloud_init.meta_data",
    "cloud_init.network_config",
    "cloud_init.files",
    "image.prepare.user_data",
    "image.properties",
    "app.push",
]
LISTS = ["cloud_init.ssh_authorized_keys", "cloud_init.packages", "app.collect", "image.drives"]


@pytest.fixture(autouse=True)
def launch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home-config"))
    return tmp_path


def refusal(*words: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose.compose(list(words), 1)
    return str(caught.value)


@pytest.mark.parametrize("key", MAPPINGS)
def test_a_mapping_is_asked_for(key: str) -> None:
    told = refusal(f"{key}=file.yaml")
    assert told.startswith(f"{key}: ") and "takes a mapping" in told and "{NAME: VALUE}" in told


@pytest.mark.parametrize("key", LISTS)
def test_a_list_is_asked_for(key: str) -> None:
    told = refusal(f"{key}=word")
    assert told.startswith(f"{key}: ") and f"{key}=[VALUE]" in told


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("cloud_init.user_data=mine.yaml", "cloud_init.user_data"),
        ("+ranks.a={on: '0', cloud_init: {user_data: mine.yaml}}", "ranks.a.cloud_init.user_data"),
    ],
)
def test_a_file_of_user_data_has_its_key(words: str, key: str) -> None:
    assert f"{key}_file=FILE" in refusal(words)


def test_what_stands_where_keys_belong_is_not_repeated() -> None:
    assert "s3cret" not in refusal("cloud_init.ssh_authorized_keys=s3cret")


def test_a_file_of_user_data_counts_from_the_launch_folder(launch_folder: Path) -> None:
    spec = compose.compose(["cloud_init.user_data_file=mine.yaml"], 1)
    assert spec.config.cloud_init.user_data_file == str(launch_folder / "mine.yaml")
    spec = compose.compose(["+ranks.a={on: '0', cloud_init: {user_data_file: mine.yaml}}"], 1)
    assert spec.for_rank(0).cloud_init.user_data_file == str(launch_folder / "mine.yaml")


def test_wildcards_of_the_host_are_files_in_the_spec(launch_folder: Path) -> None:
    for name in ("a.csv", "b.csv"):
        (launch_folder / name).touch()
    step = "{kind: guest, command: [date], push: {in/: '*.csv'}}"
    spec = compose.compose([f"+app.steps.one={step}"], 1)
    there = {"in/a.csv": str(launch_folder / "a.csv"), "in/b.csv": str(launch_folder / "b.csv")}
    assert spec.config.app.steps["one"]["push"] == there
    spec = compose.compose(["app=guest", "app.command=[date]", "app.push={in/: '*.csv'}"], 1)
    assert spec.config.app.push == there
