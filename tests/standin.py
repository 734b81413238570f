#!/usr/bin/env python3
"""A stand-in for qemu: takes qemu's command line, and does what a rank sees of a guest, without booting one.

    -netdev stream|dgram,…   joins the mvpnet network, by descriptor or by unix path
    hostfwd=tcp:HOST:PORT-:  answers with an ssh banner there; fails as qemu does when the port is taken
    -chardev … -mon          speaks QMP on an inherited descriptor
    -chardev …id=console     serial console: a boot text into its log and to whoever connects
    --version                says one

Its rank comes from the MAC of the mvpnet device, 52:55 and four bytes. What else it does is told by the environment:

STANDIN_BEHAVIOUR   words joined by "+", for all ranks or for each ("0:die,2:no-ssh+no-qmp"):
    normal             (the default) as a well-behaved guest
    die                prints STANDIN_MESSAGE on stderr and exits with code 1, before anything else
    no-ssh             takes ssh connections and hangs up, as qemu's user network does while nothing listens
    mute-ssh           takes ssh connections and says nothing
    no-qmp             never greets
    ignore-powerdown   the guest does not care for the power button
    ignore-term        not even SIGTERM, SIGINT or SIGHUP ends it
    eof-exit           leaves when its standard input ends
    answer             answers each ping frame (see below) with a pong
    stop-fails         does not stop when it is told to, over QMP
    save-fails         its memory cannot be saved
    save-waits         saves its memory when a file save.RANK is in STANDIN_DIR
    poweroff=SECONDS   the guest powers itself off after that time; the same with `crash` (exit code 1)
STANDIN_MESSAGE     for `die`, and last words of a crash
STANDIN_CONSOLE     text for the console in place of a login prompt
STANDIN_DIR         a folder that is looked at ten times a second, and written to:
    poweroff.RANK crash.RANK   the same as the words, when such a file appears
    panic.RANK         the guest's kernel panics: with "tell" in the file it tells qemu by the panic device
    event.RANK         QMP events to tell, a JSON object with name and data a line
    send.RANK          frames to send, a line of hex each; the file is deleted when they are read
    received.RANK      frames that came, a line of hex each
    memory.RANK        the text that is its memory, when that is saved; loaded.RANK the text that came from a save

Ping and pong are frames of EtherType 0x88b5 (IEEE 802, for local experiments) whose 15th byte is 4 or 5.
"""

# ruff: noqa: E402
from __future__ import annotations

import sys


def answer(argv: list[str]) -> str | None:
    """What qemu says to a question about itself."""
    if {"--version", "-version"} & set(argv):
        return "QEMU emulator version 7.2.0 (stand-in)"
    if argv == ["-device", "help"]:
        return 'Misc devices:\nname "pvpanic", bus ISA\nname "pvpanic-pci", bus PCI'
    if argv == ["-netdev", "help"]:
        return "Available netdev backend types:\nuser\nstream\ndgram"
    if argv == ["-machine", "help"]:
        return "Supported machines are:\npc-i440fx-7.2  Stand-in (default)\nq35  Stand-in (alias of pc-q35-7.2)"
    if argv == ["-drive", "format=help"]:
        return "Supported formats: file qcow2 raw vvfat"
    return None


# Before the imports, which take longer than all else: each rank of each job asks four questions.
if __name__ == "__main__" and (said := answer(sys.argv[1:])):
    print(said)
    sys.exit(0)

import asyncio
import json
import os
import re
import signal
import socket
import struct
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

PING, PONG = 4, 5
ETHERTYPE = b"\x88\xb5"
VERSION = {"major": 7, "minor": 2, "micro": 0}


def option_values(argv: list[str], name: str) -> list[str]:
    return [value for option, value in pairwise(argv) if option == name]


def properties(text: str) -> dict[str, str]:
    """qemu's `type,key=value,…`; the first word goes under "". A doubled comma stands for one."""
    words = [word.replace("\0", ",") for word in text.replace(",,", "\0").split(",")]
    pairs = [word.partition("=") for word in words[1:]]
    return {"": words[0], **{key: value for key, _, value in pairs}}


def rank_of(argv: list[str]) -> int:
    for device in option_values(argv, "-device"):
        if found := re.search(r"mac=52:55:(..):(..):(..):(..)", device):
            return int("".join(found.groups()), 16)
    return 0


def behaviour_of(rank: int, text: str) -> dict[str, str]:
    """The words for this rank, each with what follows its "="."""
    for entry in text.split(","):
        ranks, colon, words = entry.rpartition(":")
        if not colon or int(ranks) == rank:
            return {word: value for word, _, value in (word.partition("=") for word in words.split("+"))}
    return {}


def fail(message: str) -> None:
    print(f"qemu-system-x86_64: {message}", file=sys.stderr, flush=True)
    os._exit(1)


def json_stream(text: str) -> tuple[list[dict[str, Any]], str]:
    """The complete objects, which need no space or line between them, and the rest."""
    objects = []
    with suppress(json.JSONDecodeError):
        while text := text.lstrip():
            value, end = json.JSONDecoder().raw_decode(text)
            objects.append(value)
            text = text[end:]
    return objects, text


class Link:
    """The guest's side of the mvpnet network."""

    def __init__(self, netdev: dict[str, str]) -> None:
        self.stream = netdev[""] == "stream"
        kind = socket.SOCK_STREAM if self.stream else socket.SOCK_DGRAM
        end = "addr" if self.stream else "local"
        if netdev.get(f"{end}.type") == "fd":
            self.socket = socket.socket(fileno=int(netdev[f"{end}.str"]))
        else:
            self.socket = socket.socket(socket.AF_UNIX, kind)
            if not self.stream:
                Path(netdev["local.path"]).unlink(missing_ok=True)
                self.socket.bind(netdev["local.path"])
            self.socket.connect(netdev["addr.path" if self.stream else "remote.path"])
        self.unread = b""

    def send(self, frame: bytes) -> None:
        self.socket.setblocking(True)
        self.socket.sendall(struct.pack("!I", len(frame)) + frame if self.stream else frame)

    def receive(self) -> list[bytes] | None:
        """The frames that are there; None at the end."""
        self.socket.setblocking(False)
        try:
            data = self.socket.recv(1 << 20)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not self.stream:
            return [data] if data else []
        self.unread += data
        frames = []
        while len(self.unread) >= 4 and len(self.unread) >= 4 + (size := struct.unpack("!I", self.unread[:4])[0]):
            frames.append(self.unread[4 : 4 + size])
            self.unread = self.unread[4 + size :]
        return frames if data else None


class Memory:
    """The guest's memory, and the commands that stop it, let it go on and save it (qapi/migration.json).

    It is what the file memory.RANK in STANDIN_DIR holds; what was loaded from a save is put into loaded.RANK.
    """

    def __init__(self, argv: list[str], rank: int, does: dict[str, str], folder: Path | None) -> None:
        self.rank, self.does, self.folder = rank, does, folder
        self.fds: list[int] = []
        self.status, self.migration = "running", "none"
        for incoming in option_values(argv, "-incoming"):
            self.load(int(incoming.removeprefix("fd:")))

    def load(self, fd: int) -> None:
        first, _, content = os.read(fd, 65536).decode().partition("\n")
        if first != f"memory of rank {self.rank}":
            fail("load of migration failed: Invalid argument")
        self.status = "paused"
        if self.folder:
            (self.folder / f"loaded.{self.rank}").write_text(content)

    def write(self) -> None:
        own = self.folder / f"memory.{self.rank}" if self.folder else None
        content = own.read_text() if own and own.exists() else ""
        fd = self.fds.pop()
        os.write(fd, f"memory of rank {self.rank}\n{content}".encode())
        os.close(fd)
        self.status, self.migration = "postmigrate", "completed"

    def perform(self, command: str) -> dict[str, object] | None:
        """None for a command that is about other things."""
        match command:
            case "query-status":
                return {"return": {"status": self.status, "running": self.status == "running"}}
            case "stop" if "stop-fails" in self.does:
                return {"error": {"class": "GenericError", "desc": "it would not stop"}}
            case "stop" | "cont":
                self.status = "paused" if command == "stop" else "running"
            case "getfd" if not self.fds:
                return {"error": {"class": "GenericError", "desc": "No file descriptor supplied via SCM_RIGHTS"}}
            case "migrate":
                self.migration = "failed" if "save-fails" in self.does else "active"
            case "migrate_cancel":
                self.migration = "cancelled"
            case "query-migrate":
                return {"return": self.how_far()}
            case "getfd" | "closefd" | "migrate-set-parameters":
                pass
            case _:
                return None
        return {"return": {}}

    def how_far(self) -> dict[str, object]:
        waits = "save-waits" in self.does and self.folder and not (self.folder / f"save.{self.rank}").exists()
        if self.migration == "active" and not waits:
            self.write()
        said = {"error-desc": "Unable to write to file: No space left on device"} if self.migration == "failed" else {}
        return {"status": self.migration, "ram": {"transferred": 7_000_000, "remaining": 5_000_000}, **said}


class Standin:
    def __init__(self, argv: list[str], environ: dict[str, str]) -> None:
        self.argv = argv
        self.rank = rank_of(argv)
        self.does = behaviour_of(self.rank, environ.get("STANDIN_BEHAVIOUR", "normal"))
        self.message = environ.get("STANDIN_MESSAGE", "the stand-in was told to die")
        self.console_text = environ.get("STANDIN_CONSOLE", f"Linux 6.1 booting\nn{self.rank:04d} login: ")
        self.folder = Path(environ["STANDIN_DIR"]) if "STANDIN_DIR" in environ else None
        self.chardevs = {p.get("id"): p for p in map(properties, option_values(argv, "-chardev"))}
        self.qmp: socket.socket | None = None
        self.memory = Memory(argv, self.rank, self.does, self.folder)
        self.link: Link | None = None
        self.ended: asyncio.Future[int] | None = None
        self.serving: list[object] = []  # keeps servers and tasks referenced

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        self.ended = loop.create_future()
        if "die" in self.does:
            fail(self.message)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.on_term)
        if "eof-exit" in self.does:
            loop.add_reader(0, self.on_stdin)
        self.join_network(loop)
        await self.serve_ssh()
        await self.serve_console()
        for work in (self.serve_qmp(), self.watch_folder(), self.end_after_a_time()):
            self.serving.append(asyncio.create_task(work))
        return await self.ended

    def leave(self, code: int) -> None:
        if self.ended and not self.ended.done():
            self.ended.set_result(code)

    # how it ends

    def on_term(self) -> None:
        if "ignore-term" not in self.does:
            self.event("SHUTDOWN", guest=False, reason="host-signal")
            self.leave(0)

    def on_stdin(self) -> None:
        if not os.read(0, 4096):
            self.leave(0)

    def power_off(self) -> None:
        self.event("SHUTDOWN", guest=True, reason="guest-shutdown")
        self.leave(0)

    def crash(self) -> None:
        fail(self.message)

    def panic(self, how: str) -> None:
        """What Linux says, and qemu's events when it is told (qapi/run-state.json)."""
        (self.folder / f"panic.{self.rank}").unlink()
        self.print_on_console("[    9.1] Kernel panic - not syncing: sysrq triggered crash\n")
        if how == "tell":
            self.event("GUEST_PANICKED", action="poweroff")
            self.event("SHUTDOWN", guest=True, reason="guest-panic")
            self.leave(0)
        else:
            self.print_on_console("[    9.2] ---[ end Kernel panic - not syncing: sysrq triggered crash ]---\n")

    async def end_after_a_time(self) -> None:
        for word, end in (("poweroff", self.power_off), ("crash", self.crash)):
            if word in self.does:
                await asyncio.sleep(float(self.does[word]))
                end()

    async def watch_folder(self) -> None:
        while self.folder:
            await asyncio.sleep(0.1)
            if (self.folder / f"poweroff.{self.rank}").exists():
                self.power_off()
            if (self.folder / f"crash.{self.rank}").exists():
                self.crash()
            if (self.folder / f"panic.{self.rank}").exists():
                self.panic((self.folder / f"panic.{self.rank}").read_text())
            events = self.folder / f"event.{self.rank}"
            if events.exists():
                lines = events.read_text().splitlines()
                events.unlink()
                for event in map(json.loads, lines):
                    self.event(event["name"], **event["data"])
            frames = self.folder / f"send.{self.rank}"
            if frames.exists() and self.link:
                lines = frames.read_text().split()
                frames.unlink()
                for line in lines:
                    self.link.send(bytes.fromhex(line))

    # ssh, console

    async def serve_ssh(self) -> None:
        for netdev in option_values(self.argv, "-netdev"):
            rule = re.search(r"hostfwd=(tcp:([\d.]*):(\d+)-[\d.]*:\d+)", netdev)
            if rule:
                try:
                    self.serving.append(await asyncio.start_server(self.on_ssh, rule[2] or "0.0.0.0", int(rule[3])))
                except OSError:
                    fail(f"-netdev {netdev}: Could not set up host forwarding rule '{rule[1]}'")

    async def on_ssh(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if "no-ssh" not in self.does and "mute-ssh" not in self.does:
            writer.write(b"SSH-2.0-standin\r\n")
        if "no-ssh" not in self.does:
            await reader.read()
        writer.close()

    async def serve_console(self) -> None:
        console = self.chardevs.get("console", {})
        self.print_on_console(self.console_text)
        if console.get("") == "socket":
            self.serving.append(await asyncio.start_unix_server(self.on_console, console["path"]))

    def print_on_console(self, text: str) -> None:
        console = self.chardevs.get("console", {})
        if log := console.get("logfile") or (console.get("path") if console.get("") == "file" else None):
            with Path(log).open("a") as file:
                file.write(text)

    async def on_console(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(self.console_text.encode())
        while data := await reader.read(4096):
            writer.write(data)
        writer.close()

    # QMP: https://www.qemu.org/docs/master/interop/qmp-spec.html

    async def serve_qmp(self) -> None:
        monitor = properties(",".join(["mon", *option_values(self.argv, "-mon")]))
        fd = self.chardevs.get(monitor.get("chardev"), {}).get("fd")
        if fd is None or "no-qmp" in self.does:
            return
        self.qmp = socket.socket(fileno=int(fd))
        self.say({"QMP": {"version": {"qemu": VERSION, "package": "stand-in"}, "capabilities": ["oob"]}})
        unread = ""
        while data := await self.hear_qmp():
            commands, unread = json_stream(unread + data.decode())
            for command in commands:
                answer = self.perform(command["execute"], command.get("arguments", {}))
                self.say({"id": command["id"], **answer} if "id" in command else answer)
                if command["execute"] == "system_powerdown" and "ignore-powerdown" not in self.does:
                    self.power_off()

    async def hear_qmp(self) -> bytes:
        """What comes, b"" at the end; a descriptor that comes along is kept for getfd."""
        assert self.qmp
        loop, ready = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self.qmp, ready.set)
        await ready.wait()
        loop.remove_reader(self.qmp)
        with suppress(OSError):
            data, fds, _, _ = socket.recv_fds(self.qmp, 65536, 4)
            self.memory.fds += fds
            return data
        return b""

    def perform(self, command: str, arguments: dict[str, Any]) -> dict[str, object]:
        if (answer := self.memory.perform(command)) is not None:
            return answer
        if command == "query-version":
            return {"return": {"qemu": VERSION, "package": "stand-in"}}
        if command == "human-monitor-command":
            return {"return": f"a human asked for {arguments['command-line']}\r\n" * int(arguments.get("cpu-index", 1))}
        if command == "quit":
            self.event("SHUTDOWN", guest=False, reason="host-qmp-quit")
            self.leave(0)
        elif command == "system_powerdown":
            self.event("POWERDOWN")
        elif command == "system_reset":
            self.event("RESET", guest=False, reason="host-qmp-system-reset")
        elif command != "qmp_capabilities":
            return {"error": {"class": "CommandNotFound", "desc": f"The command {command} has not been found"}}
        return {"return": {}}

    def event(self, name: str, **data: object) -> None:
        self.say({"event": name, "data": data, "timestamp": {"seconds": 0, "microseconds": 0}})

    def say(self, message: dict[str, object]) -> None:
        if self.qmp:
            with suppress(OSError):  # nobody is there any more
                self.qmp.sendall(json.dumps(message).encode() + b"\r\n")

    # the mvpnet network

    def join_network(self, loop: asyncio.AbstractEventLoop) -> None:
        for netdev in map(properties, option_values(self.argv, "-netdev")):
            if netdev[""] in ("stream", "dgram"):
                self.link = Link(netdev)
                loop.add_reader(self.link.socket, self.on_frames, loop, self.link)

    def on_frames(self, loop: asyncio.AbstractEventLoop, link: Link) -> None:
        frames = link.receive()
        if frames is None:
            loop.remove_reader(link.socket)
        for frame in frames or []:
            if self.folder:
                with (self.folder / f"received.{self.rank}").open("a") as file:
                    file.write(frame.hex() + "\n")
            if "answer" in self.does and frame[12:15] == ETHERTYPE + bytes([PING]):
                link.send(frame[6:12] + frame[:6] + ETHERTYPE + bytes([PONG]) + frame[15:])


def main() -> int:
    return asyncio.run(Standin(sys.argv[1:], dict(os.environ)).run())


if __name__ == "__main__":
    sys.exit(main())
