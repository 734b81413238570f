"""Validation of user-data with cloud-init's own schema, by the program `cloud-init schema`, if this host has it.

The host's cloud-init may know other keys than the guest's; cloud_init.validate=never skips the check.
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
    """Refuse user-data that cloud-init would not accept.

    Args:
        user_data: The text, without secrets: the program may print any part of it.
        wanted: The value of cloud_init.validate.

    Returns:
        The reason why it could not be checked; None if it was checked or need not be.

    Raises:
        ConfigError: cloud-init refused it; the message has cloud-init's own words.
        HostError: It cannot be checked although `wanted` is always.
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
                cwd="/",  # a Python program may look for modules where it is started
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
