"""Works of the bibliography, cited by author and year in plain Markdown."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from pybtex.database import Entry, parse_file

from flatlib.errors import FlatlibError


def citer(bibliography: Path) -> Callable[[str, str], str]:
    """Return the function that cites works of a BibTeX file: ``("t", "a2020")`` or ``("p", "a2020, b2021")``.

    The form ``t`` stands in a sentence, "Author (2020)"; ``p`` in parentheses, "(Author, 2020)". The year links to
    arXiv, or to the work's DOI or address.
    """

    def cite(form: str, keys: str) -> str:
        works = [parts(work(bibliography, key.strip())) for key in keys.split(",")]
        if form == "t":
            return ", ".join(f"{who} ({year})" for who, year in works)
        return f"({'; '.join(f'{who}, {year}' for who, year in works)})"

    return cite


@cache
def entries(bibliography: Path) -> dict[str, Entry]:
    """Return the works of a BibTeX file by key."""
    return dict(parse_file(str(bibliography)).entries)


def work(bibliography: Path, key: str) -> Entry:
    """Return one work."""
    if key not in entries(bibliography):
        raise FlatlibError(f"{bibliography.name} has no work {key!r}")
    return entries(bibliography)[key]


def parts(entry: Entry) -> tuple[str, str]:
    """Return the authors of a work, and its year with a link to it."""
    persons = entry.persons["author"]
    names = [" ".join(map(str, (*person.rich_prelast_names, *person.rich_last_names))) for person in persons]
    who = " and ".join(names) if len(names) < 3 else f"{names[0]} et al."
    fields = entry.fields
    places = {"eprint": "https://arxiv.org/abs/", "doi": "https://doi.org/", "url": ""}
    address = next((prefix + fields[name] for name, prefix in places.items() if name in fields), "")
    return who, f"[{fields['year']}]({address})" if address else fields["year"]
