"""No input makes a traceback: keys, values, environments and encodings of the verbs that look before anything runs.

Each example is a process of its own, forked with the verbs imported already: of what a user could meet, only the time
that Python takes to start is missing. Where the start itself matters, programs are started.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import mvpnet.cli.image  # imported before processes are forked
import mvpnet.cli.plan
import mvpnet.cli.recipes
import mvpnet.cli.seed
import mvpnet.config.compose  # noqa: F401
from mvpnet.__main__ import run
from mvpnet.config.nodes import all_keys
from mvpnet.util.encoding import set_up_streams

_DOCUMENTED = (0, 2, 3, 4)  # of README's exit codes, those of what runs no guest
_TIMEOUT_S = 120
_EXAMPLES = os.environ.get("MVPNET_FUZZ_EXAMPLES")  # more of them, and others each time

_OTHER_KEYS = (
    *("ranks.a", "ranks.a.on", "ranks.a.vm.memory", "ranks.a.image.path", "ranks", "app.steps", "app.steps.x"),
    *("app.steps.x.command", "app.steps.x.on", "app.push./x", "cloud_init.files./x", "cloud_init.user_data.runcmd"),
    *(
        "hydra.run.dir",
        "hydra.sweep.dir",
        "hydra.sweep.subdir",
        "hydra.job.name",
        "hydra.job.chdir",
        "hydra.searchpath",
    ),
    *("hydra.sweeper.params", "hydra.output_subdir", "hydra", "hydra/launcher", "image", "net", "vm", "recipe", "app"),
)
_VALUES = (
    *(
        "",
        "null",
        "0",
        "-1",
        "1e400",
        "nan",
        "9" * 40,
        "true",
        "on",
        "1G",
        "1Q",
        "-5G",
        "0644",
        "12:30:00",
        "0,1",
        "3-0",
    ),
    *(
        "~",
        "~nosuch/x",
        "~/x",
        "/",
        "/dev/null",
        "/proc/nosuch",
        "../x",
        ".",
        "..",
        "*",
        "a/b",
        "d.qcow2",
        "d.qcow2,x=y",
    ),
    *("[]", "[a]", "[[a]]", "[1,2]", "{}", "{a: 1}", "{a: {b: c}}", "[{a: b}]", "a,b", "a b", "'q'", '"', "'", "\\"),
    *(
        "${image}",
        "${x}",
        "${",
        "\\${x}",
        "{rank}",
        "{nosuch}",
        "{",
        "}",
        "{}{}",
        "%s",
        "%",
        "a\nb",
        "\t",
        "\x01",
        "\x7f",
    ),
    *("é", "日本", "\udce9", "\u2028", "#c", "!x", "&a", "*b", "@f", "`id`", "$(id)", ";", "|", "x" * 3000),
    *("http://[", "http://x/y?z#", "https://h:99999/", "file:///x", "nbd://x", "json:{}", "fat:/tmp", "/dev/sda"),
    *("root", "user@host", "ssh-ed25519 AAAA", "even", "1-", "-", "--", "auto", "tcg", "dgram", "guest", "file"),
)
_VERBS = (
    *(["plan", "-n", "2"], ["plan", "-n", "2", "--json"], ["seed", "-n", "1", "out"], ["--cfg", "job"], ["--help"]),
    *(
        ["--cfg", "job", "--resolve"],
        ["image", "path"],
        ["image", "list"],
        ["image", "verify"],
        ["recipes"],
        ["doctor"],
    ),
)


@dataclass(frozen=True)
class Surroundings:
    """What a process finds around it: its home, its folder, and the encoding of its output."""

    home: str = "."  # below the example's own folder; none: no variable HOME
    folder: str = "."  # `gone` is removed once the process is in it
    encoding: str = "utf-8"
    more: dict[str, str] = field(default_factory=dict)


_SURROUNDINGS = st.builds(
    Surroundings,
    home=st.sampled_from([".", ".", "none", "/proc/nosuch", "/dev/null", "/proc", "relative", ""]),
    folder=st.sampled_from(
        [".", ".", "gone", "Größe", "a b", "{45c6}", "{{x}}", "#", "x=y,z", "b\udce9", "$HOME", "%h"]
    ),
    encoding=st.sampled_from(["utf-8", "utf-8", "ascii", "latin-1"]),
    more=st.dictionaries(
        st.sampled_from(
            ["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TMPDIR", "SLURM_JOB_ID", "COLUMNS", "http_proxy", "USER"]
        ),
        st.sampled_from(["", "/proc/nosuch", "relative", "~", "x y", "-1", "é", "\udce9", "/dev/null"]),
        max_size=2,
    ),
)
_VALUE = st.one_of(
    st.sampled_from(_VALUES), st.sampled_from(_VALUES), st.text(max_size=6).filter(lambda text: "\0" not in text)
)
_WORD = st.builds(
    "{}{}={}".format, st.sampled_from(["", "", "", "+", "++"]), st.sampled_from([*all_keys(), *_OTHER_KEYS]), _VALUE
)
_WORDS = st.lists(st.one_of(_WORD, _WORD, _WORD, _WORD, _VALUE), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@settings(
    max_examples=int(_EXAMPLES or 60),
    deadline=None,
    derandomize=not _EXAMPLES,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.sampled_from(_VERBS), _WORDS, _SURROUNDINGS)
@example(["plan", "-n", "1"], ["image.path=~nosuch/d.qcow2"], Surroundings())
@example(["plan", "-n", "1"], ["image.path=d\udce9.qcow2"], Surroundings(encoding="ascii"))
@example(["plan", "-n", "1"], ["job.name=x"], Surroundings(home="none", folder="gone"))
@example(["seed", "-n", "1", "out"], ["cloud_init.seed=make"], Surroundings(folder="b\udce9"))
@example(["plan", "-n", "1"], ["app.steps=\\${x}"], Surroundings())
@example(["plan", "-n", "1"], ["hydra.sweeper.params={vm.memory: 1G}"], Surroundings())
@example(["--help"], ["job.name=é"], Surroundings(encoding="ascii"))
def test_no_input_makes_a_traceback(place: Path, verb: list[str], words: list[str], around: Surroundings) -> None:
    code, said = forked([*verb, *words], around, place)
    assert "Traceback" not in said, said
    assert code in _DOCUMENTED, said


def test_a_locale_that_is_none_will_do(tmp_path: Path) -> None:
    """The interpreter takes it when it starts, so that it has to be started."""
    environ = {**os.environ, "LC_ALL": "nosuch.UTF-8", "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    argv = [sys.executable, "-m", "mvpnet", "plan", "-n", "1", "job.name=é"]
    ended = subprocess.run(argv, cwd=tmp_path, env=environ, capture_output=True, timeout=_TIMEOUT_S, check=False)
    assert (ended.returncode, ended.stdout) == (2, b"")
    assert "job.name: 'é'" in ended.stderr.decode()


def forked(argv: list[str], around: Surroundings, place: Path) -> tuple[int, str]:
    """Run the program in a process of its own. Returns its exit code, and all that it printed."""
    output = place / "output"
    pid = os.fork()
    if not pid:
        _child(argv, around, place, output)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), output.read_text("utf-8", "replace")


def _child(argv: list[str], around: Surroundings, place: Path, output: Path) -> None:
    """Never returns; what is raised is printed as Python would."""
    signal.alarm(_TIMEOUT_S)
    code = 98
    try:
        _surround(around, place, output)
        sys.argv = ["mvpnet", *argv]
        set_up_streams()
        code = run(argv)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        os.write(2, traceback.format_exc().encode("utf-8", "replace"))
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                code = 98
        os._exit(code)


def _surround(around: Surroundings, place: Path, output: Path) -> None:
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    out, err = os.fdopen(1, "wb", closefd=False), os.fdopen(2, "wb", closefd=False)
    sys.stdout = io.TextIOWrapper(out, encoding=around.encoding)
    sys.stderr = io.TextIOWrapper(err, encoding=around.encoding, errors="backslashreplace", write_through=True)
    folder = place / around.folder
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    if around.folder == "gone":
        folder.rmdir()
    os.environ.update({"XDG_CACHE_HOME": str(place / "cache"), "XDG_CONFIG_HOME": str(place / "config"), **around.more})
    os.environ.pop("HOME", None)
    if around.home != "none":
        os.environ["HOME"] = str(place) if around.home == "." else around.home
