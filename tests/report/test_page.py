"""Reports: one page that needs nothing else, with the pictures that there is something to draw for, in a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click.testing import CliRunner

from mvpnet.cli.report import report as report_verb
from mvpnet.errors import ConfigError
from mvpnet.records.inputs import Input
from mvpnet.records.run import open_run
from mvpnet.report import of_run, of_sweep, page
from records.runs import add_traffic, job, make_run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
ALONE = ["--headless", "--no-sandbox", "--disable-component-update", "--disable-sync"]
PNG = b"\x89PNG\r\n\x1a\n"


class Page(HTMLParser):
    """What a page refers to, its headings and its pictures; unclosed tags are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.headings: list[str] = []
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in ("meta", "img"):
            self.open.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)


def check_page(path: Path) -> Page:
    page = Page(path.read_text())
    assert all(reference.startswith("data:image/png;base64,") for reference in page.references)
    assert not page.tags & {"script", "link", "iframe", "object"} and "url(" not in path.read_text()
    assert "{{" not in path.read_text()
    return page


def full_run(folder: Path) -> Path:
    disk = Input("image.path", "/disk<&>", 5, 1, "a" * 64, "store")
    run = make_run(folder, inputs=[disk], metrics={"mbits": 5.5, "<b>": 1})
    add_traffic(run)
    return run.root


def test_a_runs_page_is_whole_and_alone(tmp_path: Path) -> None:
    folder = full_run(tmp_path / "run")
    done = CliRunner().invoke(report_verb, [str(folder)], standalone_mode=False)
    assert done.stdout == f"{folder / 'report' / 'report.html'}\n", done
    page = check_page(folder / "report" / "report.html")
    assert page.headings[0] == "Job records"
    pictures = {path.name for path in (folder / "report").glob("*.png")}
    assert pictures == {"boot-timeline.png", "traffic-over-time.png", "traffic-matrix.png", "drops.png"}
    assert len(page.references) == 4
    assert all((folder / "report" / name).read_bytes().startswith(PNG) for name in pictures)
    text = (folder / "report" / "report.html").read_text()
    assert "/disk&lt;&amp;&gt;" in text and "a" * 64 in text and "&lt;b&gt;" in text and "5.5" in text


def test_what_a_run_did_not_leave_is_said(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", ended=False).root
    path = page.write(of_run.of_run(open_run(folder)), tmp_path / "out")
    assert check_page(path).references == []
    text = path.read_text()
    assert all(words in text for words in ("killed", "No times", "nothing was sampled", "no stats.json"))


def test_many_ranks_fit(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", job(tmp_path, ranks=40))
    add_traffic(folder, 40)
    path = page.write(of_run.of_run(open_run(folder.root)), tmp_path / "out")
    assert len(check_page(path).references) == 4


def test_a_sweep_is_drawn_against_what_was_swept(tmp_path: Path) -> None:
    number = 0
    for memory in ("512M", "1G", "2G"):
        for kind in ("stream", "dgram"):
            for repeat in range(2):
                spec = replace(job(tmp_path), typed=(f"vm.memory={memory}", f"net={kind}", "vm.cpus=1"), repeat=number)
                mbits = 100.0 * number + repeat
                make_run(tmp_path / "sweep" / str(number), spec, metrics={"mbits": mbits}, code=int(number == 3))
                number += 1
    (tmp_path / "sweep" / "9" / "manifest.json").write_text("{")
    done = CliRunner().invoke(report_verb, [str(tmp_path / "sweep")], standalone_mode=False)
    path = Path(done.stdout.strip())
    assert path == tmp_path / "sweep" / "report" / "report.html", done
    page = check_page(path)
    assert page.headings[:3] == ["Sweep sweep", "Not read", "mbits"]
    text = path.read_text()
    assert "over vm.memory, net<" in text and "11 jobs ran, 1 of them failed" in text
    assert "mbits against vm.memory" in text and "vm.cpus=1" in text


def test_a_job_that_was_run_again_does_not_count_as_failed(tmp_path: Path) -> None:
    spec = replace(job(tmp_path), typed=("net=stream",))
    make_run(tmp_path / "sweep/0", spec, ended=False)
    make_run(tmp_path / "sweep/1", replace(spec, repeat=2), metrics={"mbits": 1.0}, code=3)
    make_run(tmp_path / "sweep/2", spec, metrics={"mbits": 2.0})
    body = of_sweep.of_sweep(tmp_path / "sweep").body
    assert "2 jobs ran, 1 of them failed" in body
    assert body.count("run again as") == 1 and "killed; run again as 2" in body


def test_words_are_swept_too_and_measuring_nothing_is_no_error(tmp_path: Path) -> None:
    for number, kind in enumerate(("stream", "dgram")):
        make_run(tmp_path / "a" / str(number), replace(job(tmp_path), typed=(f"net={kind}",)), metrics={"mbits": 1.0})
        make_run(tmp_path / "b" / str(number), replace(job(tmp_path), typed=(f"net={kind}",)))
    assert len(of_sweep.of_sweep(tmp_path / "a").pictures) == 1
    assert "measured nothing" in of_sweep.of_sweep(tmp_path / "b").body


def test_a_sweep_of_broken_jobs_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "0")
    run.manifest.unlink()
    with pytest.raises(ConfigError, match=r"no job of the sweep can be read(.|\n)*no manifest.json"):
        of_sweep.of_sweep(tmp_path)


def test_without_matplotlib_it_is_said_what_to_install(tmp_path: Path) -> None:
    folder = full_run(tmp_path / "run")
    program = (
        "import sys\n"
        "sys.modules['matplotlib'] = None\n"
        "from mvpnet.__main__ import run\n"
        f"sys.exit(run(['report', {str(folder)!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 3, done
    assert "matplotlib, which is not installed" in done.stderr and "pip install 'mvpnet[report]'" in done.stderr
    assert not (folder / "report").exists()


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH; .ci/run installs it")
def test_a_browser_shows_the_page_and_every_picture_in_it(tmp_path: Path) -> None:
    folder = full_run(tmp_path / "run")
    written = page.write(of_run.of_run(open_run(folder)), tmp_path / "report")
    probe = (
        "<script>document.title = JSON.stringify([...document.images].map(i => [i.complete, i.naturalWidth,"
        " i.getBoundingClientRect().width <= document.documentElement.clientWidth]))</script>"
    )
    probed = tmp_path / "probed.html"
    probed.write_text(written.read_text().replace("</body>", f"{probe}</body>"))
    assert BROWSER
    command = [BROWSER, *ALONE, *QUIET, f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"]
    done = subprocess.run(
        [*command, "--dump-dom", probed.as_uri()], capture_output=True, text=True, timeout=60, check=True
    )
    title = done.stdout.partition("<title>")[2].partition("</title>")[0]
    assert [(shown, width > 300, fits) for shown, width, fits in json.loads(title)] == [(True, True, True)] * 4
