"""The words of a text as the archive's index holds them."""

import re
import unicodedata

WORD_MAX = 40
"""Characters of a word that count."""
WORDS_MAX = 2_000
"""Different words of one message in the index."""
SOUGHT_MAX = 20
"""Words one search looks for."""
WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """Its different words in their order, in one case and without accents: at most 2,000, of 40 characters each."""
    found = dict.fromkeys(match.group()[:WORD_MAX] for match in WORD.finditer(_plain(text)))
    return list(found)[:WORDS_MAX]


def sought(typed: str) -> list[str]:
    """The words a person looks for; nothing they type is an error."""
    return words_of(typed)[:SOUGHT_MAX]


def _plain(text: str) -> str:
    """Compatible forms made one (NFKD), accents left out, then folded (Unicode, section 3.13)."""
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(character for character in decomposed if not unicodedata.combining(character)).casefold()
