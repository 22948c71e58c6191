"""Style sheets and fonts of the pages, reduced to what the pages use: two thirds of their bytes are never needed."""

import re
from collections.abc import Iterable
from pathlib import Path

from fontTools.subset import Options, Subsetter
from fontTools.ttLib import TTFont

ICONS = Path("vendor/fontawesome/webfonts/fa-solid-900.ttf")
UNUSED = ("scripts/fontawesome.js", "**/*.map")  # the icons come from the font, and nobody debugs the theme here
DATA = 500_000  # bytes; a longer script is a library or data, and names no class of the pages
RULE = re.compile(r"""(?P<selectors>[^{}]+)\{(?P<body>(?:"[^"]*"|'[^']*'|[^{}"'])*)\}""")
EMPTY = re.compile(r"@(?:media|supports)[^{}]*\{\s*\}")
CLASS = re.compile(r"\.((?:[A-Za-z_-]|\\.)(?:[\w-]|\\.)*)")
OF_SCRIPTS = "bs-"  # Bootstrap puts these names together


def lighten(pages: Path) -> None:
    """Reduce the style sheets and the font of icons of a book, and remove what no page loads."""
    static = pages / "_static"
    for path in [path for pattern in UNUSED for path in static.glob(pattern)]:
        path.unlink()
    used = used_names(pages)
    styles = sorted(static.rglob("*.css"))
    for path in styles:
        path.write_text(reduced(path.read_text(encoding="utf-8"), used), encoding="utf-8")
    if (static / ICONS).is_file():
        subset_icons(static / ICONS, styles)


def used_names(pages: Path) -> set[str]:
    """Return the classes of all elements of the pages, and every word of their scripts."""
    names: set[str] = set()
    for path in pages.rglob("*.html"):
        for classes in re.findall(r'\bclass="([^"]*)"', path.read_text(encoding="utf-8")):
            names.update(classes.split())
    for path in pages.rglob("*.js"):
        if path.stat().st_size < DATA and path.name != "searchindex.js":
            names.update(re.findall(r"[\w-]+", path.read_text(encoding="utf-8")))
    return names


def reduced(style: str, used: Iterable[str]) -> str:
    """Return a style sheet without the selectors of classes that are not used, and without rules that have no other.

    >>> reduced(".a .b,.c{x:y}.d{x:y}:not(.d){x:y}@media print{.d{x:y}}", {"a", "c"})
    '.c{x:y}:not(.d){x:y}'
    """
    names = set(used)

    def rule(found: re.Match[str]) -> str:
        selectors = found["selectors"]
        if "/*" in selectors or "@" in selectors:  # a licence, a font
            return found[0]
        kept = [selector for selector in re.split(r",(?![^()]*\))", selectors) if applies(selector, names)]
        return f"{','.join(kept)}{{{found['body']}}}" if kept else ""

    return EMPTY.sub("", RULE.sub(rule, style))


def applies(selector: str, used: set[str]) -> bool:
    """Return whether every class that an element must have for a selector is used; alternatives are not looked into."""
    while selector != (outside := re.sub(r"\([^()]*\)", "", selector)):
        selector = outside
    names = [re.sub(r"\\(.)", r"\1", name) for name in CLASS.findall(selector)]
    return all(name in used or name.startswith(OF_SCRIPTS) for name in names)


def subset_icons(font: Path, styles: Iterable[Path]) -> None:
    """Write the icons that style sheets name into a WOFF file beside the font, and let the style sheets load that."""
    texts = {path: path.read_text(encoding="utf-8") for path in styles}
    codes = {int(code, 16) for text in texts.values() for code in re.findall(r'content: ?"\\([0-9a-fA-F]+) ?"', text)}
    with TTFont(font) as icons:
        subsetter = Subsetter(Options(notdef_outline=True))
        subsetter.populate(unicodes=codes)
        subsetter.subset(icons)
        icons.flavor = "woff"  # its compression needs no further package
        icons.save(font.with_suffix(".woff"))
    for path, text in texts.items():
        old, new = f"{font.stem}.woff2", f"{font.stem}.woff"
        text = re.sub(rf'{re.escape(old)}("?\)) ?format\("woff2"\)', rf'{new}\1 format("woff")', text)
        path.write_text(text, encoding="utf-8")
