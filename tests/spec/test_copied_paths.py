"""Paths that are copied: home and wildcards work, a shell's forms are refused with the form that works."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mvpnet.errors import ConfigError
from mvpnet.spec.app_steps import steps_of
from mvpnet.spec.copied_paths import split_pattern, with_pushed_files
from mvpnet.spec.schema import App, AppKind


def app(**keys: Any) -> App:
    return App(kind=AppKind.guest, command="date", **keys)


def as_step(**keys: Any) -> App:
    return App(kind=AppKind.guest, steps={"one": {"command": "date", **keys}})


KINDS = [pytest.param(app, "app", id="app"), pytest.param(as_step, "app.steps.one", id="step")]


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("/tmp/out", ("/tmp", "out")),
        ("/out", ("", "out")),
        ("out", (".", "out")),
        ("a//b/./out/", ("./a/b", "out")),
        ("/tmp/*.log", ("/tmp", "*.log")),
        ("/*", ("", "*")),
        ("*", (".", "*")),
        ("/tmp/*/out", ("/tmp", "*/out")),
        ("run-?/a/x[1]", (".", "run-?/a/x[1]")),
    ],
)
def test_a_path_is_a_folder_and_what_is_kept(path: str, parts: tuple[str, str]) -> None:
    assert split_pattern(path) == parts


@pytest.mark.parametrize(("make", "key"), KINDS)
def test_the_home_is_where_relative_paths_are(make: Any, key: str) -> None:
    [step] = steps_of(make(collect=["~/out.txt", "~/logs/*.log"], push={"~/a": "/x/b", "~/": "/x/c", "~": "/x/d"}))
    assert step.collect == ("out.txt", "logs/*.log")
    assert step.push == {"a": Path("/x/b"), "c": Path("/x/c"), "d": Path("/x/d")}


@pytest.mark.parametrize(("make", "key"), KINDS)
@pytest.mark.parametrize("copy", ["collect", "push"])
@pytest.mark.parametrize(
    ("path", "works"),
    [
        ("$HOME/x", "write '~/x'"),
        ("${HOME}/x", "write '~/x'"),
        ("/tmp/$USER/x", "~/ is"),
        ("/tmp/$(date)", "~/ is"),
        ("/tmp/`date`", "~/ is"),
        ("~bob/x", "~/ is"),
        ("/tmp/{a,b}.log", "match names"),
        ("/tmp/x{1..3}", "match names"),
    ],
)
def test_what_a_shell_would_read_is_refused(make: Any, key: str, copy: str, path: str, works: str) -> None:
    with pytest.raises(ConfigError) as caught:
        steps_of(make(**{copy: [path] if copy == "collect" else {path: "/x"}}))
    assert str(caught.value).startswith(f"{key}.{copy}: {path!r}") and works in str(caught.value)


@pytest.mark.parametrize(("make", "key"), KINDS)
@pytest.mark.parametrize(
    ("paths", "what"),
    [
        (["~"], "names no file"),
        (["/"], "names no file"),
        (["../x"], "leads outside"),
        (["/tmp/**/x"], "as * here"),
        (["/a/x", "/b/x"], "both be kept"),
        (["x", "~/x"], "both be kept"),
        (["/a/*.log", "/b/*.log"], "both be kept"),
        (["/a/*.log", "/b/x.log"], "both be kept"),
    ],
)
def test_what_cannot_be_kept_is_refused(make: Any, key: str, paths: list[str], what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        steps_of(make(collect=paths))
    assert str(caught.value).startswith(f"{key}.collect: ") and what in str(caught.value)


def test_signs_of_a_name_stay() -> None:
    [step] = steps_of(app(collect=["a b;c", "C$", "x{1}", "/a/*.log", "/a/x.log", "it's"]))
    assert step.collect == ("a b;c", "C$", "x{1}", "/a/*.log", "/a/x.log", "it's")


@pytest.mark.parametrize("target", ["/tmp/*", "a?", "*/"])
def test_wildcards_are_no_place(target: str) -> None:
    with pytest.raises(ConfigError, match=r"^app\.push: .*(.|\n)*DIR/"):
        steps_of(app(push={target: "/x/y"}))


# -- sources on the host --------------------------------------------------------------------------------------------


def pushed(made: App) -> dict[str, str]:
    return made.push or made.steps["one"]["push"]


@pytest.mark.parametrize(("make", "key"), KINDS)
def test_wildcards_of_the_host_are_the_files_that_match(tmp_path: Path, make: Any, key: str) -> None:
    for name in ("a.csv", "b.csv", "c.txt", "1/out", "2/out", "x[1]"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    sources = {"in/": "*.csv", "~/": "c.*", "/runs/": "[12]/out", "same": "x[1]", "one": "c.txt"}
    made = with_pushed_files(make(push={target: str(tmp_path / source) for target, source in sources.items()}))
    assert {target: str(Path(source).relative_to(tmp_path)) for target, source in pushed(made).items()} == {
        "in/a.csv": "a.csv",
        "in/b.csv": "b.csv",
        "~/c.txt": "c.txt",
        "/runs/1/out": "1/out",
        "/runs/2/out": "2/out",
        "same": "x[1]",
        "one": "c.txt",
    }


@pytest.mark.parametrize(("make", "key"), KINDS)
def test_wildcards_that_cannot_work_are_refused(tmp_path: Path, make: Any, key: str) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}\.push\.in/: no file or folder matches "):
        with_pushed_files(make(push={"in/": str(tmp_path / "*.csv")}))
    with pytest.raises(ConfigError, match=rf"^{key}\.push\.in: (.|\n)*write in/"):
        with_pushed_files(make(push={"in": str(tmp_path / "*.csv")}))
