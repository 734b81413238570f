"""Where the files of a seed go in the guest. Pure.

cloud-init takes a path that is not absolute from the root, without a word, and knows no `~` (its cc_write_files). Here
`~/` is the home of the user who logs in, and files there are the user's own. Other paths are absolute, or refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from mvpnet.errors import ConfigError


@dataclass(frozen=True)
class Login:
    """The user who logs in to the guest."""

    user: str
    home: str

    def path(self, written: object, key: str) -> str:
        """Return the absolute path in the guest for one as written.

        Raises:
            ConfigError: It is none that a file can have there. Names `key`.
        """
        if not isinstance(written, str) or not written.isprintable():
            raise ConfigError(f"{key}: {written!r} is no path in the guest")
        path = f"{self.home}/{written[2:]}" if written.startswith("~/") else written
        if written.startswith("~") and path == written:
            raise ConfigError(f"{key}: {written!r}: other homes than ~/ are not known", hint="write the path out")
        if not path.startswith("/"):
            raise ConfigError(
                f"{key}: {written!r} is not absolute, and cloud-init has no folder that it could count from",
                hint=f"/{written or 'opt/file'}, or ~/{written or 'file'} for the home of {self.user}",
            )
        if path.endswith("/") or ".." in PurePosixPath(path).parts:
            raise ConfigError(
                f"{key}: {written!r} leads outside, or names no file", hint="name a file by its path, without .."
            )
        return path

    def entry(self, written: Any, key: str) -> dict[str, Any]:
        """Return an entry of write_files with its path absolute, and the user's own where it is in the user's home.

        Such a file is written once the user is there. Earlier, it would make the home, owned by root.

        Raises:
            ConfigError: It is no entry, or its path is none. Names `key`.
        """
        if not isinstance(written, Mapping) or "path" not in written:
            raise ConfigError(f"{key}: {written!r} has no path", hint="as in {path: /etc/motd, content: …}")
        path = self.path(written["path"], f"{key}.path")
        is_own = str(written["path"]).startswith("~/")
        own = {"owner": self.user, "defer": True} if is_own else {}
        return {**own, **written, "path": path}

    def with_paths(self, settings: Mapping[str, Any], key: str) -> Mapping[str, Any]:
        """Return settings of user-data with the paths of their files absolute. Raises ConfigError; names `key`."""
        files = settings.get("write_files")
        if not isinstance(files, list):
            return settings
        entries = [self.entry(entry, f"{key}.write_files[{i}]") for i, entry in enumerate(files)]
        return {**settings, "write_files": entries}

    def with_owned_folders(self, user_data: dict[str, Any]) -> dict[str, Any]:
        """Return the user-data with a command that gives the user the folders in which the user's files are.

        It runs after those files are written (cloud-init's final modules), before the other commands.
        """
        files, commands = user_data.get("write_files"), user_data.get("runcmd") or []
        folders = self.folders_to_own(files) if isinstance(files, list) else []
        if not folders or not isinstance(commands, list):
            return user_data
        return {**user_data, "runcmd": [["chown", self.user, *folders], *commands]}

    def folders_to_own(self, entries: Iterable[Mapping[str, Any]]) -> list[str]:
        """Return the folders in the user's home that cloud-init makes for the user's files, owned by root."""
        if self.user == "root":
            return []
        home = PurePosixPath(self.home)
        found: dict[str, None] = {}
        for entry in entries:
            path = PurePosixPath(str(entry["path"]))
            if entry.get("owner") == self.user and path.is_relative_to(home):
                between = reversed(path.relative_to(home).parents[:-1])
                found |= dict.fromkeys(str(home / folder) for folder in between if str(folder) != ".ssh")
        return list(found)
