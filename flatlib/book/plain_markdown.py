"""MyST Markdown as plain Markdown, which JupyterLab, VS Code, Colab, nbviewer and GitHub show as well."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from flatlib.errors import FlatlibError

KEPT = [  # code and mathematics, in which nothing is markup
    *(r"^(?P<ticks>`{3,})(?!\{|`)[^\n]*\n.*?^(?P=ticks)[ ]*$", r"\$\$.*?\$\$", r"(?<!\\)\$[^$\n]+\$"),
    *(r"(?<![`}])``[^`].*?``", r"(?<![`}])`[^`\n]+`"),
]
ROLE = r"\{(?P<role>[a-z][\w:-]*)\}`(?P<content>[^`]*)`"
SPAN = r"\[(?P<words>(?:[^\[\]]|\[[^\[\]]*\])*)\]\{(?P<attributes>[.#][^{}\n]*)\}"
LINK = r"(?<!!)\[(?P<words>(?:[^\[\]]|\[[^\[\]]*\])*)\]\((?P<target>[^()\s]*)\)"
LABEL = r"^\((?P<label>[\w-]+)\)=\n+"
DIRECTIVE = re.compile(  # of backticks or colons, without another directive in it
    r"^(?P<fence>`{3,}|:{3,})\{(?P<name>[\w:-]+)\}[ ]*(?P<title>[^\n]*)\n(?P<options>(?::[\w-]+:[^\n]*\n)*)"
    r"(?P<body>(?:(?!:{3,}\{|`{3,}\{)[^\n]*\n)*?)(?P=fence)[ ]*$",
    re.MULTILINE,
)
PARTS = ("grid", "grid-item", "card-footer")  # directives that only arrange what is in them
LEFT = rf"{ROLE}|\]\{{[.#]|^\([\w-]+\)=|^:{{3,}}|^`{{3,}}\{{"  # of roles, attributes, labels and directives


@dataclass(frozen=True)
class Context:
    """What the markup of a page refers to.

    Attributes:
        texts: The glued texts, by name.
        figures: The numbers of the page's figures, by name.
        cite: Return a citation, given the last letter of its role (``t`` in a sentence, ``p`` in parentheses) and keys.
        link: Return the address and the title of another page, given the target of a link to it; None if there is none.
        anchors: Whether a figure and a labelled section can be linked to, by an HTML anchor.
    """

    texts: Mapping[str, str]
    figures: Mapping[str, int]
    cite: Callable[[str, str], str]
    link: Callable[[str], tuple[str, str] | None]
    anchors: bool = True


def plain(text: str, context: Context) -> str:
    """Return MyST Markdown as plain Markdown.

    A card or another box becomes a block quote, a label an HTML anchor, a verdict bold, an unknown role its text.

    Raises:
        FlatlibError: A glued text or a work that is not there.
    """
    while True:
        text, found = DIRECTIVE.subn(lambda box: directive(box, context), text)
        if not found:
            break
    text = outside_code(ROLE, lambda found: role(found, context), text)
    text = outside_code(SPAN, span, text)
    own = {*context.figures, *(found["label"] for found in re.finditer(LABEL, text, re.MULTILINE))}
    text = outside_code(LINK, lambda found: link(found, own, context), text)
    return outside_code(LABEL, lambda found: anchor(found["label"], context), text)


def outside_code(pattern: str, replace: Callable[[re.Match[str]], str], text: str) -> str:
    """Replace what matches `pattern` outside of code and mathematics."""
    either = re.compile(f"(?P<kept>{'|'.join(KEPT)})|{pattern}", re.DOTALL | re.MULTILINE)
    return either.sub(lambda found: found[0] if found["kept"] else replace(found), text)


def markup_left(text: str) -> list[str]:
    """Return the roles, directives, attributes and labels in a text, which plain Markdown has not."""
    found: list[str] = []

    def collect(match: re.Match[str]) -> str:
        found.append(match[0])
        return ""

    outside_code(LEFT, collect, text)
    return found


def directive(box: re.Match[str], context: Context) -> str:
    """Return a directive as plain Markdown."""
    name, title, body = box["name"], box["title"].strip(), box["body"].strip()
    if name in PARTS:
        return body
    if name == "glue:figure":
        found = re.search(r":name: *(\S+)", box["options"])
        return caption(found[1] if found else title, body, context)
    title = title or name.capitalize()
    return quote(f"**{title}{'' if title[-1] in '.?!:' else '.'}** {body}")


def quote(text: str) -> str:
    """Return a block quote."""
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def caption(name: str, text: str, context: Context) -> str:
    """Return a numbered caption, which a figure reference leads to."""
    number = f"**Figure {context.figures[name]}.** " if name in context.figures else ""
    return anchor(name, context) + number + text


def anchor(name: str, context: Context) -> str:
    """Return an HTML anchor."""
    return f'<a id="{name}"></a>\n\n' if context.anchors else ""


def role(found: re.Match[str], context: Context) -> str:
    """Return a role as plain Markdown; ``text <target>`` has its own text."""
    kind, content = found["role"], found["content"].strip()
    if kind == "glue:text":
        if content not in context.texts:
            raise FlatlibError(f"no cell of the notebook has stored {content!r}, which its text quotes; run all cells")
        return context.texts[content]
    if kind.startswith("cite:"):
        return context.cite(kind[-1], content)
    if kind == "math":
        return f"${content}$"
    named = re.fullmatch(r"(?P<words>.*?)\s*<(?P<target>[^<>]+)>", content)
    words, target = (named["words"], named["target"]) if named else ("", content)
    if kind == "numref":
        return figure(target, context)
    return f"[{words}](#{target})" if kind == "ref" else words or target


def figure(name: str, context: Context) -> str:
    """Return a reference to a figure of this page by its number, or of another page by the page's title."""
    if name in context.figures:
        number = f"Figure {context.figures[name]}"
        return f"[{number}](#{name})" if context.anchors else number
    return f"a figure of [](#{name})" if context.link(f"#{name}") else "a figure of another page"


def span(found: re.Match[str]) -> str:
    """Return text that has attributes: a verdict in bold, its scale in parentheses, other text as it is."""
    forms = {".verdict": "**{}**", ".scale": "({})"}
    return forms.get(found["attributes"].strip(), "{}").format(found["words"])


def link(found: re.Match[str], own: set[str], context: Context) -> str:
    """Return a link that leads somewhere from where the page lies, or else its words."""
    words, target = found["words"], found["target"]
    if ":" in target or (target.startswith("#") and target[1:] in own and context.anchors):
        return found[0]
    place = context.link(target)
    if place is None:
        return words or target
    return f"[{words or place[1]}]({place[0]})"
