"""Status of cloud-init in a guest, asked over ssh.

Unlike a line on the console or a call home, this reports errors, and also works after a reboot.

A shell in the guest waits for the file that cloud-init writes at its end. `cloud-init status` takes seconds to start in
a guest without KVM; it runs only if that file reports errors or does not appear.

While no login is possible or the guest reboots, the request is repeated at growing intervals. boot.timeout_s limits how
long the job waits. Formats: cloud-init's documentation, "Status", of versions 22.4 to 25.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from loguru import logger

from mvpnet.errors import HostError
from mvpnet.runtime.loop import Loop, Timer
from mvpnet.runtime.processes import Program, Programs
from mvpnet.ssh import identity_line

FIRST_PAUSE_S = 1.0  # between two tries
LAST_PAUSE_S = 8.0
PAUSE_GROWTH = 1.5
FILE_WAIT_S = 120  # longer than cloud-init takes; then `cloud-init status` runs
_OUTPUT_BYTES = 65536  # limit of output kept from one try
_REASON_CHARACTERS = 600
_LOG = "/var/log/cloud-init-output.log"
_LOG_FOLLOWS = f"--- {_LOG}"
_STATUS = re.compile(r"^\.*\s*status: (\w+)", re.MULTILINE)
_DEGRADED = re.compile(r"^extended_status: degraded", re.MULTILINE)
_LOG_LINES = 3
_ITS_OWN_LINE = re.compile(r"^Cloud-init v\.|\.py\[[A-Z]+\]: ")  # lines of cloud-init itself
_KEY_LINE = re.compile(r"[a-z_]+:(\s|$)")
_NOT_FOUND = 127  # a shell's exit code for a missing command (POSIX, "Exit Status for Commands")


def ask_argv(port: int, user: str, key: Path) -> tuple[str, ...]:
    """Return the ssh command that asks the guest behind 127.0.0.1:`port`, with a login by the job's key."""
    options = [
        "BatchMode=yes",
        f"{identity_line(key)}",  # not -i, which looks for the file before it has read the doubled percent signs
        "IdentitiesOnly=yes",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
        "LogLevel=ERROR",
        "ConnectTimeout=20",
        "ServerAliveInterval=20",
    ]
    words = [word for option in options for word in ("-o", option)]
    return ("ssh", "-F", "none", *words, "-p", str(port), "-l", user, "127.0.0.1", script())


def script(run: str = "/run/cloud-init", wait_s: int = FILE_WAIT_S) -> str:
    """Return the script that runs in the guest; `run` is the folder that cloud-init fills at each boot.

    `enabled` exists from early in a boot with cloud-init on, result.json after the last stage. result.json holds the
    errors of all stages, status.json also recoverable errors; both are written by json.dumps(indent=1).
    """
    return f"""
seconds=0
while [ -e {run}/enabled ] && [ ! -e {run}/result.json ] && [ $seconds -lt {wait_s} ]; do
    sleep 1
    seconds=$((seconds + 1))
done
if grep -q '"errors": \\[\\]' {run}/result.json && ! grep -q '"recoverable_errors": {{$' {run}/status.json; then
    echo 'status: done'
    exit 0
fi 2>/dev/null
LC_ALL=C cloud-init status --wait --long
code=$?
if [ $code -ne 0 ]; then
    echo '{_LOG_FOLLOWS}'
    tail -n 20 {_LOG} 2>/dev/null || sudo -n tail -n 20 {_LOG}
fi
exit $code
"""


@dataclass(frozen=True)
class Answer:
    """Answer of a guest: done, failed for a `reason`, or unknown, with a reason to ask again."""

    done: bool
    reason: str | None = None

    @property
    def failed(self) -> bool:
        return not self.done and self.reason is not None


def answer(code: int, output: str) -> Answer:
    """Interpret the command's exit code and output. `done` with a reason means done with recoverable errors."""
    said, _, log = output.partition(_LOG_FOLLOWS)
    status = _STATUS.search(said)
    if status and status[1] == "error":
        return Answer(False, _errors(said) + _log_end(log))
    if status and status[1] in ("done", "disabled"):
        return Answer(True, _errors(said) if code == 2 or _DEGRADED.search(said) else None)
    if code == _NOT_FOUND:
        return Answer(False, "there is no program cloud-init in the guest; boot.wait_for=ssh does not need it")
    return Answer(False)


def _log_end(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip() and not _ITS_OWN_LINE.search(line)]
    said = " | ".join(lines[-_LOG_LINES:])[-_REASON_CHARACTERS:]
    return f"; {_LOG} ends with: {said}" if said else ""


def _errors(said: str) -> str:
    """Return the errors in `status --long`: under errors: or recoverable_errors:, before 23.4 under detail:."""
    for key in ("errors", "recoverable_errors", "detail"):
        if told := _under(key, said):
            return told[:_REASON_CHARACTERS]
    return "it does not say why"


def _under(key: str, said: str) -> str:
    lines = said.splitlines()
    begin = next((i for i, line in enumerate(lines) if line.startswith(f"{key}:")), None)
    if begin is None:
        return ""
    found = [lines[begin].partition(":")[2].strip().strip("[]{}")]
    for line in lines[begin + 1 :]:
        # errors are indented or list items and may hold any text; any other line begins another key
        if key != "detail" and _KEY_LINE.match(line):
            break
        found.append(line.strip().removeprefix("- "))
    return " ".join(filter(None, found))


class Readiness:
    """Asks until cloud-init is done or has failed, then calls `on_answer` once. Never blocks."""

    def __init__(self, loop: Loop, argv: tuple[str, ...], on_answer: Callable[[Answer], None]) -> None:
        self.last_words = ""  # output of the last try without an answer
        self._loop = loop
        self._argv = argv
        self._on_answer = on_answer
        self._pause_s = FIRST_PAUSE_S
        self._timer: Timer | None = None
        self._programs = Programs(loop)
        self._program: Program | None = None
        self._output = b""

    def start(self) -> None:
        self._output = b""
        try:
            self._program = self._programs.start(self._argv, os.environ, self._keep, self._told)
        except HostError as error:
            self._on_answer(Answer(False, str(error)))

    def cancel(self) -> None:
        """Stop asking; `on_answer` is not called any more."""
        if self._timer:
            self._timer.cancel()
        self._programs.close()

    def _keep(self, output: bytes) -> None:
        self._output = (self._output + output)[-_OUTPUT_BYTES:]

    def _told(self, code: int) -> None:
        assert self._program
        self._programs.forget(self._program)
        output = self._output.decode(errors="replace").strip()
        logger.debug("asked for cloud-init's status ({}): {}", code, output)
        told = answer(code, output)
        if told.done or told.failed:
            self._on_answer(told)
            return
        self.last_words = output.splitlines()[-1] if output else f"ssh ended with exit code {code}"
        self._timer = self._loop.call_later(self._pause_s, self.start)
        self._pause_s = min(self._pause_s * PAUSE_GROWTH, LAST_PAUSE_S)
