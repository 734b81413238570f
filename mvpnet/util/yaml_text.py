"""YAML as people write it: texts of several lines as blocks, mappings in their own order, no line folded."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

# Line breaks to YAML 1.1, which PyYAML would write as they are and read as blanks.
_OTHER_BREAKS = re.compile("[\r\x85\u2028\u2029]")


class Quoted(str):
    """A text that is always written in quotes: a MAC address of digits alone is a number to YAML 1.1."""


def yaml_text(document: Any) -> str:
    """The document, of JSON's types and `Quoted`, as YAML that reads back the same."""
    return _dump()(document)


@functools.cache
def _dump() -> Callable[[Any], str]:
    """PyYAML's dump, as we want it. It is imported when it is first needed."""
    import yaml

    class Dumper(yaml.SafeDumper):
        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)  # lists stand out from the key that they belong to

        def ignore_aliases(self, data: Any) -> bool:
            return True  # anchors and aliases are for machines

    def text(dumper: Any, value: str) -> Any:
        style = '"' if _OTHER_BREAKS.search(value) else "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    def quoted(dumper: Any, value: Quoted) -> Any:
        return dumper.represent_scalar("tag:yaml.org,2002:str", str(value), style='"')

    Dumper.add_representer(str, text)
    Dumper.add_representer(Quoted, quoted)

    def dump(document: Any) -> str:
        written: str = yaml.dump(document, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=2**31, indent=2)
        return written

    return dump
