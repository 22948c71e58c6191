"""Links inside a rendered book: each must lead to a file that is there, and to a place in it."""

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What one page links to, and the places in it that can be linked to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.places = {"", "top"}  # the browser's own
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        """Collect `href`, `src`, `id` and `name`."""
        given = dict(attributes)
        self.links += [given[name] for name in ("href", "src") if given.get(name)]
        self.places |= {given[name] for name in ("id", "name") if given.get(name)}


def broken(pages: Path) -> list[str]:
    """Every link of the book below `pages` that leads nowhere, as ``page: link``; links to elsewhere are not asked."""
    read = {path.resolve(): Page(path) for path in html(pages)}
    return [
        f"{path.relative_to(pages.resolve())}: {link}"
        for path, page in read.items()
        for link in dict.fromkeys(page.links)
        if leads_nowhere(link, path, read)
    ]


def html(pages: Path) -> list[Path]:
    """The pages of a book, without the theme's templates that it copies to ``_static``."""
    return [path for path in sorted(pages.rglob("*.html")) if "_static" not in path.relative_to(pages).parts]


def leads_nowhere(link: str, path: Path, read: dict[Path, Page]) -> bool:
    """Whether a link on the page at `path` names a file or a place that does not exist."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return False
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if target not in read:
        return not target.is_file()
    return unquote(parts.fragment) not in read[target].places
