"""Read the texts of all languages: the packaged ones, and those that a templates folder puts in their place."""

import tomllib
from collections.abc import Mapping
from importlib import resources

PACKAGED = ("en", "es", "fr", "de")
CATALOGUE_MAX = 200_000
"""Characters in one file of texts."""


class WordingError(Exception):
    """A text cannot be used. Says which file and key, what is wrong, and what to do."""

    def __init__(self, file: str, key: str, wrong: str, remedy: str) -> None:
        place = f"{file}, {key}" if key else file
        super().__init__(f"{place}: {wrong}. {remedy}")
        self.file = file
        self.key = key


def packaged_catalogues() -> dict[str, dict[str, str]]:
    """The texts that come with Throughline, by locale. Reads files: for the runtime, at start."""
    folder = resources.files("router.domain") / "templates"
    return {
        locale: parse_catalogue((folder / f"{locale}.toml").read_text("utf-8"), f"{locale}.toml") for locale in PACKAGED
    }


def parse_catalogue(text: str, file: str) -> dict[str, str]:
    """The texts of one TOML file, by key (`notice.moved`). Raises WordingError, which names `file`."""
    if len(text) > CATALOGUE_MAX:
        raise WordingError(file, "", f"has more than {CATALOGUE_MAX} characters", "Keep only texts in it.")
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits, and lists in lists in lists
        raise WordingError(file, "", f"is not TOML: {error}", "Put each text in quotes, one a line.") from error
    texts: dict[str, str] = {}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise WordingError(file, name, "stands in no table", "Put it under [notice], [prompt] or the like.")
        for key, template in table.items():
            if not isinstance(template, str):
                raise WordingError(file, f"{name}.{key}", "is not a text", "Put it in quotes.")
            texts[f"{name}.{key}"] = template
    return texts


def overlay_catalogues(
    packaged: Mapping[str, Mapping[str, str]], own: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, str]]:
    """The packaged texts with an organisation's own in their place; locales that only it has are added."""
    return {locale: {**packaged.get(locale, {}), **own.get(locale, {})} for locale in {**packaged, **own}}
