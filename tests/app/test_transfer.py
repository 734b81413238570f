"""Files between host and guest, by tar: what a guest sends is unpacked inside its folder or not at all."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from mvpnet.app.guest_shell import STARTED, fetch_argv, push_argv, run_command
from mvpnet.app.transfer import unpack


def archive(*members: tuple[str, dict[str, object], bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, facts, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for fact, value in facts.items():
                setattr(member, fact, value)
            tar.addfile(member, io.BytesIO(content))
    return made.getvalue()


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tuple[str, dict[str, object], bytes]:
    return name, {"type": kind, "linkname": to}, b""


def left_out(data: bytes, folder: Path) -> list[str]:
    return list(unpack(io.BytesIO(data), folder))


def test_files_folders_and_links_among_them_are_unpacked(tmp_path: Path) -> None:
    members = [
        ("./out", {"type": tarfile.DIRTYPE}, b""),
        ("./out/run", {"mode": 0o4755}, b"#!"),
        link("./out/soft", "run"),
        link("./out/hard", "./out/run", tarfile.LNKTYPE),
    ]
    assert left_out(archive(*members), tmp_path) == []
    assert (tmp_path / "out/run").stat().st_mode & 0o7777 == 0o755, "no setuid from a guest"
    assert (tmp_path / "out/soft").read_bytes() == (tmp_path / "out/hard").read_bytes() == b"#!"


def test_archives_follow_one_another(tmp_path: Path) -> None:
    assert left_out(archive(("a", {}, b"1")) + archive(("b", {}, b"2")), tmp_path) == []
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


@pytest.mark.parametrize(
    ("member", "why"),
    [
        (("/abs", {}, b"x"), "leads outside"),
        (("../up", {}, b"x"), "leads outside"),
        (("a/../../up", {}, b"x"), "leads outside"),
        (link("soft", "/etc/passwd"), "is a link that leads outside, to /etc/passwd"),
        (link("soft", "../../x"), "is a link that leads outside"),
        (link("hard", "/etc/passwd", tarfile.LNKTYPE), "is a link to what was not fetched"),
        (link("hard", "nothing", tarfile.LNKTYPE), "is a link to what was not fetched"),
        (("dev", {"type": tarfile.CHRTYPE}, b""), "is no file or folder"),
        (("fifo", {"type": tarfile.FIFOTYPE}, b""), "is no file or folder"),
    ],
)
def test_what_leads_outside_is_left_out_and_the_rest_is_kept(
    tmp_path: Path, member: tuple[str, dict[str, object], bytes], why: str
) -> None:
    folder = tmp_path / "collected"
    folder.mkdir()
    [problem] = left_out(archive(member, ("fine", {}, b"ok")), folder)
    assert problem.startswith(member[0]) and why in problem and "left out" in problem
    assert sorted(tmp_path.rglob("*")) == [folder, folder / "fine"]


def test_nothing_is_written_through_a_link_that_was_there(tmp_path: Path) -> None:
    folder, outside = tmp_path / "collected", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "way").symlink_to(outside)
    (folder / "file").symlink_to(outside / "file")
    [problem] = left_out(archive(("way/x", {}, b"x"), ("file", {}, b"mine")), folder)
    assert "leads outside through a link" in problem
    assert list(outside.iterdir()) == [] and (folder / "file").read_bytes() == b"mine"


def test_an_archive_that_ends_too_early_is_told(tmp_path: Path) -> None:
    with pytest.raises(tarfile.TarError):
        left_out(archive(("a", {}, bytes(5000)))[:2000], tmp_path)


def as_if_by_ssh(folder: Path) -> list[str]:
    """In place of ssh: a shell in a folder of this machine, that gets its command as the guest's would."""
    return ["sh", "-c", f'cd {folder}; exec sh -c "$1"', "ssh"]


def run(argv: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60)


def test_files_are_pushed_and_fetched(tmp_path: Path) -> None:
    home, there, back = tmp_path / "home", tmp_path / "there", tmp_path / "back"
    home.mkdir()
    (tmp_path / "it's a file").write_text("content")
    pushed = {"sub/script": tmp_path / "it's a file", f"{there}/abs": tmp_path / "it's a file"}
    done = run(push_argv(pushed, "sub/script", as_if_by_ssh(home)))
    assert (done.returncode, done.stderr) == (0, "")
    assert (home / "sub/script").stat().st_mode & 0o111
    paths = ["sub", str(there / "abs"), "missing"]
    done = run(fetch_argv(back, paths, as_if_by_ssh(home)))
    assert (done.returncode, done.stderr) == (1, "there is no missing\n")
    assert (back / "sub/script").read_text() == (back / "abs").read_text() == "content"


def test_wildcards_are_expanded_in_the_guest(tmp_path: Path) -> None:
    home, there, back = tmp_path / "home", tmp_path / "there", tmp_path / "back"
    for path in (home / "a b.log", home / "c.log", home / "d.txt", home / ".e.log", there / "1/out", there / "2/out"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(path.name)
    (home / "x[1]").write_text("literal")
    (home / "x1").write_text("no")
    done = run(fetch_argv(back, ["*.log", "x[1]", f"{there}/*/out", "c.*"], as_if_by_ssh(home)))
    assert (done.returncode, done.stderr) == (0, "")
    found = sorted(str(path.relative_to(back)) for path in back.rglob("*") if path.is_file())
    assert found == ["1/out", "2/out", "a b.log", "c.log", "x[1]"]


def test_what_wildcards_do_not_match_or_match_twice_is_told(tmp_path: Path) -> None:
    home, there, back = tmp_path / "home", tmp_path / "there", tmp_path / "back"
    for folder in (home, there):
        folder.mkdir()
        (folder / "x1").write_text(folder.name)
    done = run(fetch_argv(back, ["*.log", "x*", f"{there}/?1"], as_if_by_ssh(home)))
    assert done.returncode == 1
    assert done.stderr == f"there is no *.log\n{there}/x1: there is another x1 already; left out\n"
    assert (back / "x1").read_text() == "home"


@pytest.mark.parametrize("path", ["$(touch pwned)*", "`touch pwned`*", "x; touch pwned; *", "a' b*", "*\ntouch pwned"])
def test_no_path_is_a_command(tmp_path: Path, path: str) -> None:
    done = run(fetch_argv(tmp_path / "back", [path], as_if_by_ssh(tmp_path)))
    assert done.returncode == 1 and "there is no " in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["back"]


def test_a_guest_that_is_not_there_is_told_by_ssh_alone(tmp_path: Path) -> None:
    nobody = ["sh", "-c", "echo no route >&2; exit 255", "ssh"]
    for argv in (
        push_argv({"x": Path(__file__)}, None, nobody),
        fetch_argv(tmp_path, ["x"], nobody),
    ):
        done = run(argv)
        assert (done.returncode, done.stderr) == (255, "no route\n")


def test_a_guest_whose_login_talks_is_told(tmp_path: Path) -> None:
    talks = ["sh", "-c", "printf %01024d 0; exit 0", "ssh"]
    done = run(fetch_argv(tmp_path, ["/tmp/x"], talks))
    assert (done.returncode, done.stderr) == (1, "x did not come whole; does a login there print anything?\n")


def test_a_program_in_a_guest_gets_its_arguments_and_settings_and_gives_its_code() -> None:
    program = [sys.executable, "-c", "import os, sys; print(os.environ['A'], sys.argv[1:]); sys.exit(9)", "b  c", "$d"]
    with in_a_guest(run_command(program, {"A": "it's"})) as shell:
        assert shell.stdout
        assert shell.stdout.read() == f"{STARTED.decode()}it's ['b  c', '$d']\n"
        assert shell.wait(60) == 9


def in_a_guest(command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_program_in_a_guest_is_asked_to_end_with_what_it_started_when_ssh_is_gone() -> None:
    child = "trap 'echo child; exit' TERM; echo ready; while :; do sleep 0.1; done"
    program = ["sh", "-c", f'trap "wait; echo parent; exit 3" TERM; sh -c "{child}" & wait']
    with in_a_guest(run_command(program, {})) as shell:
        assert shell.stdin and shell.stdout
        assert [shell.stdout.readline() for _ in range(2)] == [STARTED.decode(), "ready\n"]
        shell.stdin.close()
        assert shell.stdout.read() == "child\nparent\n"
        assert shell.wait(60) == 3
