"""Command lines that do things inside a guest: ssh's arguments, and the few lines of sh that run on the other side.

Only what every guest has is used there: a POSIX sh and tar. Where there is setsid, as on Linux, a program that is
stopped takes with it what it started.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from mvpnet.dataplane.address import host_name
from mvpnet.runtime.helper_python import helper_argv
from mvpnet.spec.copied_paths import split_pattern

SSH_FAILED = 255  # ssh(1)
NOT_FOUND, NOT_RUNNABLE = 127, 126  # env(1)
STARTED = b"\x01mvpnet\x01\n"  # the first that comes from the guest: the command is about to run

# Runs the command, and ends it when the standard input does: when ssh is told to stop, or is no more. Without a
# terminal sshd would let it run on. Exits as the command does.
_RUN = r"""printf '\001mvpnet\001\n'
exec 3<&0
if command -v setsid > /dev/null 2>&1; then setsid "$@" < /dev/null 3<&- & else "$@" < /dev/null 3<&- & fi
app=$!
{ cat <&3; kill -TERM -$app || kill -TERM $app; sleep 5; kill -KILL -$app || kill -KILL $app; } > /dev/null 2>&1 &
watch=$!
wait $app
code=$?
kill $watch 2> /dev/null
exit $code"""

# One archive after another on standard output, of what folder and pattern, in turn, name; what is missing is told on
# standard error, and the rest sent. Patterns are expanded, and no more than that: without IFS no word is split. A name
# that has the signs of a pattern comes first.
_SEND = """\
code=0
files=//
names=//
IFS=
send() {
    found=1
    case "$files" in *"//$1/$2//"*) return ;; esac
    files="$files$1/$2//"
    case "$names" in *"//$2//"*)
        echo "$1/$2: there is another $2 already; left out" >&2
        code=1
        return
        ;;
    esac
    names="$names$2//"
    tar -cf - -C "$1/" "./$2" || code=1
}
while [ $# -gt 1 ]; do
    found=
    if [ -e "$1/$2" ] || [ -L "$1/$2" ]; then
        send "$1" "$2"
    else
        for match in "$1"/$2; do
            if [ -e "$match" ] || [ -L "$match" ]; then send "$1" "${match#"$1"/}"; fi
        done
    fi
    if [ ! "$found" ]; then
        path="$1/$2"
        echo "there is no ${path#./}" >&2
        code=1
    fi
    shift 2
done
exit $code"""

TAKE_ABSOLUTE = "tar -xf - -C /"
TAKE_RELATIVE = "tar -xf -"  # to where ssh logs in: the user's home


def ssh_argv(ssh_config: Path, rank: int, user: str | None) -> list[str]:
    """ssh into a guest, to be followed by one argument: a command line for the shell there."""
    who = ["-l", user] if user else []
    return ["ssh", "-F", str(ssh_config), "-o", "BatchMode=yes", "-o", "ConnectTimeout=30", *who, host_name(rank)]


def run_command(argv: Sequence[str], environment: Mapping[str, str]) -> str:
    """The shell command line that runs a program in a guest."""
    settings = [f"{name}={value}" for name, value in environment.items()]
    return shlex.join(["sh", "-c", _RUN, "sh", "env", *settings, *argv])


def send_command(paths: Sequence[str]) -> str:
    """The shell command line that writes these files and folders to standard output as tar archives."""
    return shlex.join(["sh", "-c", _SEND, "sh", *(part for path in paths for part in split_pattern(path))])


def push_argv(files: Mapping[str, Path], executable: str | None, ssh: Sequence[str]) -> list[str]:
    """The process on the host that sends files to a guest."""
    sources = json.dumps({to: str(source) for to, source in files.items()})
    return helper_argv(_CARRY, "push", sources, executable or "", *ssh)


def fetch_argv(folder: Path, paths: Sequence[str], ssh: Sequence[str]) -> list[str]:
    """The process on the host that fetches files from a guest into a folder."""
    names = [split_pattern(path)[1] for path in paths]
    return helper_argv(_CARRY, "fetch", str(folder), json.dumps(names), *ssh, send_command(paths))


_CARRY = "mvpnet.app.transfer"
