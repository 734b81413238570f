"""An app: every guest sends a frame to every other; it ends once all have come. Or with `wait`, when it is told to."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from mvpnet.dataplane import address


def frame(source: int, to: int) -> str:
    return (address.mac(to) + address.mac(source) + b"\x88\xb5\x01from %d" % source).ljust(60, b"\0").hex()


def main(folder: Path, ranks: int) -> None:
    for source in range(ranks):
        (folder / "new").write_text("\n".join(frame(source, to) for to in range(ranks) if to != source) + "\n")
        (folder / "new").rename(folder / f"send.{source}")
    for to in range(ranks):
        wanted = {frame(source, to) for source in range(ranks) if source != to}
        came = folder / f"received.{to}"
        while not (came.exists() and wanted <= set(came.read_text().split())):
            time.sleep(0.1)
    print(f"metric exchanged {ranks * (ranks - 1)}", flush=True)


def end(*_: object) -> None:
    print("told to end", flush=True)
    sys.exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # this Slurm sends it to all of a job's processes
    main(Path(sys.argv[1]), int(os.environ["MVPNET_WSIZE"]))
    while sys.argv[2:] == ["wait"]:
        time.sleep(3600)
