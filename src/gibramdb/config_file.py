"""The configuration file: YAML in two levels, as names and text, each with the line it stands on.

Needs PyYAML, which the embedded library and the client do without: `config` imports this module when a file is named.

Owns: what a configuration file looks like, and where in it a thing stands.
Never: knows which settings there are; turns text into values.

Invariants:
- Nodes are walked, not loaded: a value's text is as written, so `5m`, 010 and `yes` reach the setting's own parser.
- A key given twice, a tag, an entry without a value is refused, as YAML loaders do not.
- No message shows a value out of a list of entries: it may be secret.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from gibramdb.errors import ConfigError

CONFIG_FILE_BYTES_MAX = 1024 * 1024
_TAGS = "tag:yaml.org,2002:"
_NULL = _TAGS + "null"


class FileEntry(NamedTuple):
    """One `section: key: value`. A list is dicts of texts and of lists of texts, and read by who expects one."""

    section: str
    key: str
    value: str | Iterator[dict[str, str | list[str]]]
    origin: str


def read_config_file(path: str) -> Iterator[tuple[str, str, Iterator[FileEntry]]]:
    """Each section of the file: its name, its origin (file and line) and, to be read after it, its entries.

    Raises:
        ConfigError: the file can not be read, is not YAML, or is not sections of keys.
    """
    try:
        with Path(path).open("rb") as file:
            content = file.read(CONFIG_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: the configuration file can not be read: {error.strerror}") from error
    if len(content) > CONFIG_FILE_BYTES_MAX:
        raise ConfigError(f"{path}: found more than {CONFIG_FILE_BYTES_MAX} bytes, which is no configuration file")
    try:
        root = yaml.compose(content, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        # Not str(error): it quotes the line, and the line may hold a key.
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{path}: found what is not YAML ({path}, line {line}): {error.problem}") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{path}: found what is not YAML: {error}") from None
    if root is None:
        return
    for section, origin, body in _pairs(root, path, path):
        # A section of which every line is commented out reads as null.
        yield section, origin, iter(()) if body.tag == _NULL else _entries(section, body, path)


def _entries(section: str, body: yaml.Node, path: str) -> Iterator[FileEntry]:
    for key, origin, node in _pairs(body, path, section):
        yield FileEntry(section, key, _value(f"{section}.{key}", node, path, origin), origin)


def _value(name: str, node: yaml.Node, path: str, origin: str) -> str | Iterator[dict[str, str | list[str]]]:
    if node.tag == _NULL:
        raise ConfigError(f"{name}: found no value ({origin}); allowed: a value, or remove the line")
    if not node.tag.startswith(_TAGS):
        raise ConfigError(f"{name}: found the tag {node.tag} ({origin}); allowed: a value without a tag")
    if isinstance(node, yaml.ScalarNode):
        return str(node.value)
    if isinstance(node, yaml.SequenceNode):
        return (
            {field: _field(f"{entry}.{field}", value, at) for field, at, value in _pairs(each, path, entry)}
            for entry, each in ((f"{name}[{index}]", each) for index, each in enumerate(node.value))
        )
    raise ConfigError(f"{name}: found keys below it ({origin}); allowed: a value")


def _field(name: str, node: yaml.Node, origin: str) -> str | list[str]:
    items = node.value if isinstance(node, yaml.SequenceNode) else [node]
    for item in items:
        if not isinstance(item, yaml.ScalarNode) or item.tag == _NULL or not item.tag.startswith(_TAGS):
            found = "something else (not shown, it may hold a key)"
            raise ConfigError(f"{name}: found {found} ({origin}); allowed: a value, or a list of values")
    words = [str(item.value) for item in items]
    return words if isinstance(node, yaml.SequenceNode) else words[0]


def _pairs(node: yaml.Node, path: str, name: str) -> Iterator[tuple[str, str, yaml.Node]]:
    """Key, origin and value of each entry of a mapping."""
    origin = f"{path}, line {node.start_mark.line + 1}"
    if not isinstance(node, yaml.MappingNode):
        kind = "a list" if isinstance(node, yaml.SequenceNode) else "a single value"
        raise ConfigError(f"{name}: found {kind} ({origin}); allowed: keys, each with a value")
    origins: dict[str, str] = {}
    for key, value in node.value:
        origin = f"{path}, line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise ConfigError(f"{name}: found a list or keys in the place of a key ({origin}); allowed: a word")
        word = str(key.value)
        if word in origins:
            raise ConfigError(f"{name}: found the key {word} again ({origin}); allowed: once, as in {origins[word]}")
        origins[word] = origin
        yield word, origin, value
