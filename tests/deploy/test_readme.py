"""The README: its map is made of the modules' own words, its commands and links exist."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

from router.cli.app import throughline

ROOT = Path(__file__).parents[2]
PACKAGES = ("health", "channels", "router")
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]


def purpose(module: Path) -> str:
    """The first line of a module's docstring."""
    return (ast.get_docstring(ast.parse(module.read_text())) or "").split("\n")[0]


def draw_map() -> str:
    """What stands between the README's map marks."""
    lines: list[str] = []
    for package in PACKAGES:
        summary = f"<summary><b>{package}/</b> {purpose(ROOT / package / '__init__.py')}</summary>"
        lines += ["", "<details>", summary, "", "| module | purpose |", "|---|---|"]
        lines += [
            f"| `{module.relative_to(ROOT / package)}` | {purpose(module)} |"
            for module in sorted((ROOT / package).rglob("*.py"), key=lambda path: (len(path.parts), path))
            if not module.name.startswith("__")
        ]
        lines += ["", "</details>"]
    return "\n".join([*lines, ""])


def test_every_module_says_its_purpose() -> None:
    """In one line that ends like a sentence."""
    for package in PACKAGES:
        for module in (ROOT / package).rglob("*.py"):
            assert module.name == "__init__.py" or purpose(module).endswith((".", "?", ":", "`")), module


def test_the_map_is_made_of_the_modules_words() -> None:
    """`make map` draws it again."""
    shown = README.split("<!-- map -->")[1].split("<!-- end of map -->")[0]
    assert shown.strip() == draw_map().strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """To files of this repository."""
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    """Every `throughline COMMAND` can be typed, every `make TARGET` made."""
    text = page.read_text()
    for command in re.findall(r"(?m)(?:`|^    )throughline ([a-z]+)", text):
        assert command in throughline.commands
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))
    assert set(re.findall(r"(?m)(?:`|^    )make ([a-z]+)", text)) <= targets


def test_the_threat_model_names_tests_that_are_there() -> None:
    """Each claim of SECURITY.md leads to the test that shows it, in the file it links to."""
    named = re.findall(r"\[`(test_\w+)`\]\(([^)]+)\)", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 40
    for test, file in named:
        assert f"def {test}(" in (ROOT / file).read_text(), (test, file)


def test_every_target_has_its_help() -> None:
    """`make` alone lists what there is."""
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"(?m)^\.PHONY: (.*)$", makefile)
    for target in phony.split():
        assert re.search(rf"(?m)^{target}:.*## \S", makefile), target


def test_the_python_it_asks_for_is_the_one_that_is_needed() -> None:
    """README and package agree."""
    needs = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    assert f"Python {needs.removeprefix('>=')} or newer" in README


if __name__ == "__main__":
    before, rest = README.split("<!-- map -->")
    after = rest.split("<!-- end of map -->")[1]
    (ROOT / "README.md").write_text(f"{before}<!-- map -->\n{draw_map()}\n<!-- end of map -->{after}")
