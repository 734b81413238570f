"""Where messages go: the rank's file, the terminal, and what was recent at a crash."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from loguru import logger

import mvpnet
from mvpnet.logs import LogRing, part_of, rank_logs, silence
from mvpnet.paths import RankLogs
from mvpnet.spec.log_parts import OLD_PARTS, PARTS
from mvpnet.spec.schema import Logging


@pytest.fixture(autouse=True)
def only_our_sinks() -> None:
    silence()


def as_part(part: str, level: str, message: str) -> None:
    logger.patch(lambda record: record.update(name=f"mvpnet.{part}")).log(level, message)


def test_levels_for_file_and_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with rank_logs(3, Logging(level="INFO", stderr_level="ERROR"), RankLogs(tmp_path)):
        as_part("guest.supervisor", "DEBUG", "too fine")
        as_part("guest.supervisor", "INFO", "for the file")
        as_part("guest.supervisor", "ERROR", "for both")
    lines = (tmp_path / "mvpnet.log").read_text().splitlines()
    assert [line.rsplit(": ", 1)[1] for line in lines] == ["for the file", "for both"]
    assert capsys.readouterr().err == "n0003 ERROR: for both\n"


def test_the_level_of_one_part(tmp_path: Path) -> None:
    with rank_logs(0, Logging(level="WARNING", levels={"dataplane": "TRACE"}), RankLogs(tmp_path)):
        as_part("dataplane.switch", "TRACE", "wanted")
        as_part("guest.probe", "INFO", "not wanted")
    assert "wanted" in (tmp_path / "mvpnet.log").read_text()
    assert "not wanted" not in (tmp_path / "mvpnet.log").read_text()


@pytest.mark.parametrize(
    ("levels", "wanted"),
    [
        ({"guest": "TRACE"}, ["guest.supervisor", "qemu.binary", "images.store.store", "cloudinit.seed", "host.kvm"]),
        ({"guest": "TRACE", "images": "ERROR"}, ["guest.supervisor", "qemu.binary", "cloudinit.seed", "host.kvm"]),
        ({"images": "ERROR", "guest": "TRACE"}, ["guest.supervisor", "qemu.binary", "cloudinit.seed", "host.kvm"]),
        ({"experiment": "TRACE"}, ["app.runner", "records.sampling"]),
        ({"hands": "TRACE", "conductor": "TRACE"}, ["job.coordinator", "control.server"]),
        ({"rank": "TRACE", "guest": "ERROR"}, ["images.store.store", "job.coordinator"]),
    ],
)
def test_old_names_of_parts_mean_where_their_modules_are_now(
    tmp_path: Path, levels: dict[str, str], wanted: list[str]
) -> None:
    modules = (
        *("app.runner", "cloudinit.seed", "control.server", "guest.supervisor", "host.kvm", "images.store.store"),
        *("job.coordinator", "qemu.binary", "records.sampling", "dataplane.switch"),
    )
    with rank_logs(0, Logging(level="WARNING", levels=levels), RankLogs(tmp_path)):
        for module in modules:
            as_part(module, "DEBUG", module)
    lines = (tmp_path / "mvpnet.log").read_text().splitlines()
    assert sorted(line.rsplit(": ", 1)[1] for line in lines) == sorted(wanted)


def test_all_that_is_below_mvpnet_is_a_part() -> None:
    below = {path.stem for path in Path(mvpnet.__file__).parent.iterdir() if path.suffix == ".py" or is_package(path)}
    assert {name for name in below if not name.startswith("_")} == set(PARTS)
    assert {part for parts in OLD_PARTS.values() for part in parts} <= set(PARTS)


def is_package(path: Path) -> bool:
    return (path / "__init__.py").exists()


def test_without_a_file_none_is_made(tmp_path: Path) -> None:
    with rank_logs(0, Logging(file=False), RankLogs(tmp_path / "logs")):
        as_part("job", "INFO", "nowhere")
    assert not (tmp_path / "logs").exists()


def test_recent_messages_are_written_out_at_a_crash(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), rank_logs(0, Logging(level="ERROR", recent="1K"), RankLogs(tmp_path)):
        for number in range(100):
            as_part("job", "TRACE", f"message {number}")
        raise ZeroDivisionError
    kept = (tmp_path / "recent.log").read_text()
    assert "message 99" in kept and "message 0\n" not in kept
    assert len(kept) <= 1024


def test_and_not_without_one(tmp_path: Path) -> None:
    with rank_logs(0, Logging(), RankLogs(tmp_path)):
        as_part("job", "INFO", "well")
    assert not (tmp_path / "recent.log").exists()


def test_recent_is_bounded(tmp_path: Path) -> None:
    recent = LogRing(10)
    for text in ("12345", "67890", "abc"):
        recent.add(text)
    recent.write_to(tmp_path / "recent")
    assert (tmp_path / "recent").read_text() == "67890abc"
    recent.add("x" * 11)
    recent.write_to(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_parts() -> None:
    assert (part_of("mvpnet.dataplane.switch"), part_of("mvpnet.job.lifecycle"), part_of("mvpnet")) == (
        "dataplane",
        "job",
        "mvpnet",
    )


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_has_gone_does_not_matter(stream: str) -> None:
    script = (
        "import sys; from mvpnet.logs import write_quietly; sys.stdin.read();"
        f"[write_quietly(sys.{stream}, b'x' * 100_000) for _ in range(9)]; sys.exit(4)"
    )
    pipes = {"stdin": subprocess.PIPE, stream: subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], **pipes) as process:
        getattr(process, stream).close()
        assert process.stdin
        process.stdin.close()
        assert process.wait(60) == 4


def test_nor_does_a_full_disk() -> None:
    script = (
        "import sys; from mvpnet.logs import write_quietly;"
        " write_quietly(sys.stdout, b'x' * 100_000); write_quietly(None, b'x'); sys.exit(4)"
    )
    with Path("/dev/full").open("wb") as full:
        assert subprocess.run([sys.executable, "-c", script], stdout=full, check=False).returncode == 4
