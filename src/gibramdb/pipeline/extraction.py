"""The extractor that is used unless another is given: names and recurring noun phrases by their form alone, no model.

A name is a run of capitalised words. A phrase is a run of two or three lower-case words between words that carry no
meaning of their own, or the last two of a longer run; it counts only where it recurs. What stands close together in one
text unit is related, and the more text units show it, the heavier the relationship.

Written for English. Other languages that capitalise names work as well as their function words are absent from the
names; in German, where every noun is capitalised, every noun is a name.

Invariants:
- The same text gives the same answer.
- The work, and the number of relationships, is linear in the length of the text.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator

import msgspec

from gibramdb.core.titles import normalise_title
from gibramdb.pipeline.protocols import ExtractedEntity, ExtractedRelationship, Extraction

NAME = "name"
PHRASE = "phrase"
RELATED = "related to"
"""The types of what is found here."""

NAME_WORDS_MAX = 6
"""A longer run of capitals is shouting, not a name."""
PHRASE_WORDS_MIN = 2
PHRASE_WORDS_MAX = 3
"""One lower-case word alone is mostly noise; of more than three only the last two are taken."""
TITLE_CHARS_MAX = 80
DESCRIPTION_CHARS_MAX = 160
"""The sentence an entity is first met in, cut here: it is embedded too, and long sentences take long."""
ENTITIES_PER_TEXTUNIT_MAX = 32
NEIGHBOURS_MAX = 5
"""With how many entities that come after it an entity is paired; keeps the pairs linear in the length of the text."""

PHRASE_TEXTUNITS_MIN = 2
PAIR_TEXTUNITS_MIN = 2
"""Two names in one sentence are related on first sight; any other pair must be met in this many text units."""
SENTENCE_START_TEXTUNITS_MIN = 1 << 30
"""One capitalised word at the start of a sentence proves nothing: it counts where the title is found elsewhere too."""

# Not after an initial or an honorific, whose full stop ends nothing; "I." is a number or the writer, not an initial.
_SENTENCE_END = re.compile(
    r"(?<=[.!?])(?<![\s.][A-HJ-Z]\.)(?<!\bMr\.)(?<!\bMrs\.)(?<!\bDr\.)(?<!\bSt\.)[\"'\u201d\u2019)\]]*\s+"
    r"|\n\s*\n|\n(?=\s*(?:[-*+#|>]|\d+[.)]\s))"
)
_HEADING = re.compile(r"\s*#{1,6}\s")
# A word with what holds it together inside (e-mail, O'Brien, AT&T), dotted initials (U.S., J.), or one other sign.
_TOKEN = re.compile(r"(?:(?!I)[^\W\d_]\.)+(?=\s?[^\W\d_])|(?:[^\W\d_]\.){2,}|[^\W_]+(?:[-'\u2019&][^\W_]+)*|[^\w\s]")
_NOT_PROSE = re.compile(
    r"```.*?```|<!--.*?-->|\bhttps?://[^\s)]+|<[^<>\n]{1,200}>|!?\[|\](?:\([^)\n]*\)|\[[^\]\n]*\])?", re.DOTALL
)
_CODE = re.compile(r"`[^`\n]+`")
_POSSESSIVE = re.compile(r"['\u2019]s$")
_BEGINS_ANEW = frozenset(':(["|-\u201c\u2013\u2014')  # after these a capital proves as little as at the beginning
_ENDS_PROSE = frozenset(".!?;:")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Inside a name these join what stands on both sides; "and" only after one of them ("Ministry of Trade and Industry").
_JOINING = _words("of for de del della di da do dos du la le van von der den zu al el bin ibn")
_ARTICLES = frozenset({"the"})
_HONORIFICS = _words("Mr Mrs Ms Dr Prof")
_CALENDAR = _words(
    "january february march april may june july august september october november december jan feb mar apr jun jul aug "
    "sep sept oct nov dec monday tuesday wednesday thursday friday saturday sunday"
)

# Words that carry no meaning of their own, and verbs and adverbs so common that a run of words ends at them.
_STOPWORDS = _words(
    "a about above according across actually after again against ago all almost along already also although always am "
    "among an and another any anything approximately are around as at away back be became because become becomes been "
    "before began begin being below besides best better between both but by came can cannot come comes could currently "
    "did do does doing done down due during each early either else enough especially est etc even eventually ever "
    "every example far few finally first following for former found four from further gave generally get gets give "
    "given gives go goes going gone got great greater greatest had has have having he held hence her here hers herself "
    "him himself his how however i if in include included includes including indeed instead into is it its itself just "
    "keep kept known large largely largest last late later latter least led less let like likely long made mainly "
    "make makes making many may maybe me mean means meanwhile might more moreover most mostly much must my myself near "
    "nearly need needs neither never nevertheless next no nor not note nothing now of off often old on once one only "
    "onto or other others otherwise our ours out over overall own part per perhaps please put quite rather really "
    "recent recently respectively said same saw say says second see seen see several shall she should show shown shows "
    "similar since six small so some something sometimes soon still such take taken takes than that the their theirs "
    "them themselves then there thereby therefore these they thing things third this those though three through "
    "throughout thus to today together too took toward towards turn two under unless until up upon us use used uses "
    "using usually various very via was we well went were what whatever when whenever where wherever whereas whether "
    "which while who whole whom whose why will with within without won would yet you your yours yourself"
)


class _Mention(msgspec.Struct, frozen=True, gc=False):
    title: str
    type: str
    textunits_min: int


class _Word(msgspec.Struct, frozen=True, gc=False):
    text: str
    capital: bool
    stop: bool
    possessive: bool


class PhraseExtractor:
    """Names and noun phrases, and weighted co-occurrence between them."""

    def extract(self, text: str) -> Extraction:
        """At most `ENTITIES_PER_TEXTUNIT_MAX` entities in the order of the text, and pairs of near ones."""
        # One letter, one code point: a combining accent would cut a word in two.
        prose = _NOT_PROSE.sub(" ", unicodedata.normalize("NFC", html.unescape(text)))
        found: dict[str, ExtractedEntity] = {}
        walk: list[tuple[str, int]] = []
        for number, sentence in enumerate(_SENTENCE_END.split(prose)):
            for mention in _mentions(_CODE.sub(" ; ", sentence)):
                key = normalise_title(mention.title)
                known = found.get(key)
                if known is None and len(found) == ENTITIES_PER_TEXTUNIT_MAX:
                    continue
                if known is None or mention.textunits_min < known.textunits_min:
                    description = known.description if known else _cut(sentence)
                    found[key] = ExtractedEntity(mention.title, mention.type, description, mention.textunits_min)
                walk.append((key, number))
        return Extraction(entities=tuple(found.values()), relationships=tuple(_related(walk, found)))


def _related(walk: list[tuple[str, int]], found: dict[str, ExtractedEntity]) -> Iterator[ExtractedRelationship]:
    """Each mention with those that follow it closely; a pair comes once, as sure as its surest meeting.

    walk: for each mention the normalised title and the number of the sentence.
    """
    pairs: dict[tuple[str, str], bool] = {}
    for position, (key, sentence) in enumerate(walk):
        for other, its_sentence in walk[position + 1 : position + 1 + NEIGHBOURS_MAX]:
            if key != other and not key.endswith(f" {other}"):  # nor a phrase with its own last words
                # Standing together has no direction; the order of the titles keeps a pair from being stored twice.
                pair = (key, other) if key < other else (other, key)
                sure = sentence == its_sentence and found[key].textunits_min == found[other].textunits_min == 1
                pairs[pair] = sure or pairs.get(pair, False)
    for (source, target), sure in pairs.items():
        yield ExtractedRelationship(source, target, RELATED, textunits_min=1 if sure else PAIR_TEXTUNITS_MIN)


def _cut(sentence: str) -> str:
    flat = " ".join(sentence.lstrip("#*->| \t").replace("`", "").split())
    if len(flat) <= DESCRIPTION_CHARS_MAX:
        return flat
    return flat[:DESCRIPTION_CHARS_MAX].rsplit(" ", 1)[0] + " …"


def _mentions(sentence: str) -> Iterator[_Mention]:
    """Names and phrases of one sentence, in its order."""
    words = [_word(token) for token in _TOKEN.findall(sentence)]
    heading = _HEADING.match(sentence) is not None or _is_title_case(words)
    position = 0
    begun = False
    while position < len(words):
        word = words[position]
        start = position
        if not word.text[0].isalnum():
            begun = begun and word.text not in _BEGINS_ANEW
            position += 1
            continue
        if _is_name_word(word) and word.text not in _HONORIFICS:
            position = _name_end(words, start)
            yield from _name(words[start:position], first=not begun, heading=heading)
            if begun or position > start + 1:
                continue
            # "Crude oil is ..." speaks of crude oil, so the first word of a sentence may begin a phrase as well.
        elif not _is_phrase_word(word):
            position += 1
            begun = True
            continue
        begun = True
        position = _phrase_end(words, start)
        yield from _phrase(words[start:position])


def _is_title_case(words: list[_Word]) -> bool:
    # Where every word is capitalised, as in a heading, capitals prove nothing.
    full = [word for word in words if word.text[0].isalpha() and not word.stop]
    return len(full) > 1 and words[-1].text not in _ENDS_PROSE and all(word.capital for word in full)


def _word(token: str) -> _Word:
    text = _POSSESSIVE.sub("", token)
    return _Word(text, text[0].isupper(), text.lower() in _STOPWORDS, possessive=text != token)


def _is_name_word(word: _Word) -> bool:
    return word.capital and (not word.stop or word.text.isupper())


def _is_phrase_word(word: _Word) -> bool:
    text = word.text
    return (
        text[0].isalpha()
        and len(text) > 1
        and not word.capital
        and not word.stop
        and text not in _JOINING
        and not text.endswith("ly")  # an adverb: the phrase begins behind it
    )


def _name_end(words: list[_Word], start: int) -> int:
    """Just past the last word of the name that begins at `start`."""
    end = start + 1
    joined = False
    while end < len(words) and not words[end - 1].possessive:  # "Norway's North Sea" is two names
        word = words[end]
        if _is_name_word(word):
            end += 1
            continue
        after = end + 1
        if word.text in _JOINING:
            joined = True
            if after < len(words) and words[after].text in _ARTICLES:
                after += 1
        elif not ((word.text == "and" and joined) or word.text == "&"):
            return end
        if after < len(words) and words[after].capital and not words[after].stop:
            end = after + 1
            continue
        return end
    return end


def _phrase_end(words: list[_Word], start: int) -> int:
    """Just past the last word of the phrase that begins at `start`."""
    end = start + 1
    while end < len(words) and not words[end - 1].possessive and _is_phrase_word(words[end]):
        end += 1
    return end


def _name(words: list[_Word], *, first: bool, heading: bool) -> Iterator[_Mention]:
    title = " ".join(word.text for word in words).rstrip(".") if len(words) > 1 else words[0].text
    acronym = len(words) == 1 and words[0].text.isupper() and len(words[0].text) > 1
    if (
        len(words) > NAME_WORDS_MAX
        or not 1 < len(title) <= TITLE_CHARS_MAX
        or words[0].text.lower().rstrip(".") in _CALENDAR
        or (len(words) == 1 and words[0].stop and not acronym)
    ):
        return
    if heading:
        textunits_min = PHRASE_TEXTUNITS_MIN if len(words) > 1 else SENTENCE_START_TEXTUNITS_MIN
    elif first and len(words) == 1 and not acronym:
        textunits_min = SENTENCE_START_TEXTUNITS_MIN
    else:
        textunits_min = 1
    yield _Mention(title, NAME, textunits_min)


def _phrase(words: list[_Word]) -> Iterator[_Mention]:
    if len(words) < PHRASE_WORDS_MIN or words[-1].text.endswith("ed"):  # what was done, not a thing
        return
    # In English the thing stands last: "sells crude oil" speaks of crude oil, whether the three recur or not.
    runs = [words, words[-PHRASE_WORDS_MIN:]] if len(words) == PHRASE_WORDS_MAX else [words[-PHRASE_WORDS_MIN:]]
    for run in runs:
        title = " ".join(word.text.lower() for word in run)
        if len(title) <= TITLE_CHARS_MAX:
            yield _Mention(title, PHRASE, PHRASE_TEXTUNITS_MIN)
