"""Write YAML for people: text of several lines as blocks, mappings in their own order, no folded lines."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

# Line breaks in YAML 1.1. PyYAML would write them unchanged and read them as blanks.
_OTHER_BREAKS = re.compile("[\r\x85\u2028\u2029]")


class Quoted(str):
    """Text that is always quoted: a MAC address with only digits is a number in YAML 1.1."""


def yaml_text(document: Any) -> str:
    """Return the document, of JSON's types and `Quoted`, as YAML that reads back the same."""
    return _writer()(document)


@functools.cache
def _writer() -> Callable[[object], str]:
    import yaml  # imported late: most ranks write no YAML

    class Dumper(yaml.SafeDumper):
        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)  # indents lists below their key

        def ignore_aliases(self, data: Any) -> bool:
            return True  # no anchors and aliases, which are hard to read

    def text(dumper: Any, value: str) -> Any:
        style = '"' if _OTHER_BREAKS.search(value) else "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    def quoted(dumper: Any, value: Quoted) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", str(value), style='"')

    Dumper.add_representer(str, text)
    Dumper.add_representer(Quoted, quoted)

    def write(document: object) -> str:
        return yaml.dump(document, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=2**31, indent=2)

    return write
