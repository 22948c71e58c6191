"""A Sphinx extension: equations become MathML when the book is built, so that a page typesets nothing while it is read.

Browsers draw MathML themselves. Compared with a typesetter in JavaScript a page is lighter by a megabyte, nothing
moves once it is shown, and a screen reader meets mathematics instead of a picture of it.
"""

import re
from html import escape, unescape
from typing import TYPE_CHECKING, Any

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.writers.html5 import HTML5Translator

CONVERTER = LatexToMathML(annotation=True)  # keeps the TeX, for whoever copies an equation
PLAIN = LatexToMathML()
TAG = re.compile(r"<[^>]+>")
EXTRA_SPACE = re.compile(r"(\\\\)\s*\[[\d.]+(?:pt|em|ex)\]")  # after a line, `\\[6pt]`: the converter would print it
LOGGER = logging.getLogger(__name__)


def mathml(node: nodes.Element, display: bool) -> str:
    """The equation of a math node as MathML; one that cannot be read is a warning, and is shown as it was typed."""
    tex = EXTRA_SPACE.sub(r"\1", node.astext())
    try:
        return CONVERTER.convert_with_local_state(tex, displaystyle=display)
    except LatexError as error:
        reason = str(error).strip().splitlines()[0]
        LOGGER.warning("an equation cannot be read (%s): %s", reason, tex.strip(), location=node)
        return f"<code>{escape(tex)}</code>"


def visit_inline(translator: "HTML5Translator", node: nodes.math) -> None:
    """An equation inside a line."""
    translator.body.append(mathml(node, display=False))
    raise nodes.SkipNode


def visit_display(translator: "HTML5Translator", node: nodes.math_block) -> None:
    """An equation in a block of its own, in a box that scrolls where the page is too narrow."""
    translator.body.append(translator.starttag(node, "div", CLASS="equation"))
    if node["number"]:
        translator.body.append(f'<span class="eqno">({get_node_equation_number(translator, node)})')
        translator.add_permalink_ref(node, "Link to this equation")
        translator.body.append("</span>")
    translator.body.append(f"{mathml(node, display=True)}</div>\n")
    raise nodes.SkipNode


def in_words(app: "Sphinx", page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Once a page is written, its equations are plain characters to whoever reads its text after that: search engines
    and the cards of messengers show its first sentences."""
    for node in list(doctree.findall(nodes.math)) if doctree is not None else ():
        try:
            text = unescape(TAG.sub("", PLAIN.convert_with_local_state(node.astext(), displaystyle=False)))
        except LatexError:
            text = node.astext()  # there is a warning about it already
        node.parent.replace(node, nodes.Text(text))


def setup(app: "Sphinx") -> dict[str, Any]:
    """What Sphinx asks of an extension."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_display, None))
    app.connect("html-page-context", in_words, priority=400)  # before the extension that writes descriptions, at 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}
