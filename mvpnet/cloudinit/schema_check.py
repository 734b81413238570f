"""Checks user-data by cloud-init's own schema, with the program `cloud-init schema`, where this host has it.

A cloud-init that is older or newer than the guest's may know other keys: cloud_init.validate=never is for that.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile

from mvpnet.errors import ConfigError, HostError
from mvpnet.spec.schema import Validate

_TIMEOUT_S = 60
_COMPLAINT = re.compile(r"[Ss]chema errors:\s*(.*)", re.DOTALL)


def check_user_data(user_data: str, wanted: Validate) -> str | None:
    """Refuse user-data that cloud-init would not take; None when it was checked or need not be, else why it was not.

    The program is given `user_data` in a file and may print any of it: pass texts without secrets.
    Raises ConfigError with cloud-init's own words, HostError when `wanted` is always and it cannot be checked.
    """
    if wanted is Validate.never:
        return None
    program = shutil.which("cloud-init")
    trouble = _check(program, user_data) if program else "there is no program cloud-init on the PATH"
    if trouble and wanted is Validate.always:
        raise HostError(
            f"cloud_init.validate: user-data cannot be checked: {trouble}",
            hint="install cloud-init, or leave it at auto",
        )
    return trouble


def _check(program: str, user_data: str) -> str | None:
    with tempfile.NamedTemporaryFile("w", prefix="mvpnet-user-data-", encoding="utf-8") as file:
        file.write(user_data)
        file.flush()
        try:
            done = subprocess.run(
                [program, "schema", "--config-file", file.name],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_S,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"{program} does not run: {error}"
    if done.returncode == 0:
        return None
    output = done.stdout + done.stderr
    if complaint := _COMPLAINT.search(output):
        what = " ".join(complaint[1].replace(file.name, "user-data").split())
        raise ConfigError(
            f"cloud_init: cloud-init does not take the user-data: {what}",
            hint="mvpnet seed -n N FOLDER … writes it to a folder to look at; cloud_init.validate=never skips this",
        )
    last = output.strip().splitlines()[-1:] or ["it says nothing"]
    return f"{program} schema ends with {done.returncode}: {last[0]}"
