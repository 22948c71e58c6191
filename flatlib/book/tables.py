"""Tables of a rendered page: names in words, typeset numbers and symbols, and rows that are cards on a phone."""

import re

from flatlib.book.explorer import label
from flatlib.figures import COLUMNS
from flatlib.figures.style import VALUES

KIND = r'class="(?:[^"]* )?(?:dataframe|docutils|table)\b(?! autosummary)[^"]*"'
TABLE = re.compile(rf"<table\b[^>]*\b{KIND}.*?</table>", re.DOTALL)
ROW = re.compile(r"<tr\b[^>]*>.*?</tr>", re.DOTALL)
CELL = re.compile(r"(<t(?P<kind>[hd])\b(?P<about>[^>]*)>)(?P<text>.*?)(?=</t[hd]>)", re.DOTALL)
CODE = re.compile(r"(<(code|pre|math|a)\b.*?</\2>|<[^>]+>)", re.DOTALL)
WORDY = ("must be", "statement")  # columns of tables whose rows are sentences: cards on a phone
TYPESET = [
    (r"(?<![\w.)\]-])-(?=\d|inf\b)", "\N{MINUS SIGN}"),
    (r"\b(\d(?:\.\d+)?)e-0?(\d+)\b", "\\1e\N{MINUS SIGN}\\2"),
    (r"(λ|lambda)[_ ](max|min)\b", r"λ<sub>\2</sub>"),
    (r"‖_([2F])", r"‖<sub>\1</sub>"),
    (r"(\d) %", r"\1%"),
    (r" \.\. ", " to "),
    (r"\b([nN]) = (?=\d)", "\\1\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}"),
    (r"^(\d+)\.0$", r"\1"),
]


def typeset_symbols(text: str) -> str:
    """Return a text with signs, exponents, subscripts and ranges as they are printed."""
    for pattern, replacement in TYPESET:
        text = re.sub(pattern, replacement, text)
    return text


NAMES = VALUES | {  # a cell that is nothing but this
    form: typeset_symbols(label(name)) for name in COLUMNS for form in (name, name.replace("_", " ")) if "_" in name
}


def typeset_tables(page: str) -> str:
    """Return a page whose tables are ready to be read; one that is ready stays unchanged."""
    return TABLE.sub(lambda found: typeset_table(found[0]), page)


def typeset_table(table: str) -> str:
    """Return one table with typeset cells; each cell of a wordy one carries the name of its column."""
    heads = [re.sub(r"<[^>]+>", "", cell["text"]).strip() for cell in CELL.finditer(table) if cell["kind"] == "h"]
    wordy = any(head in WORDY for head in heads)

    def row(found: re.Match[str]) -> str:
        place = iter(heads)
        return CELL.sub(lambda cell: typeset_cell(cell, next(place, "") if wordy else ""), found[0])

    table = ROW.sub(row, table)
    if wordy and "cards" not in table.partition(">")[0]:
        table = table.replace('class="', 'class="cards ', 1)
    return table


def typeset_cell(cell: re.Match[str], head: str) -> str:
    """Return the start of a cell and its content, without its end."""
    about = cell["about"]
    if cell["kind"] == "h":
        about += "" if "scope=" in about else ' scope="col"'
    elif head and "data-label" not in about:
        about += f' data-label="{head}"'
    return f"<t{cell['kind']}{about}>{typeset(cell['text'])}"


def typeset(content: str) -> str:
    """Return the content of a cell with names in words and typeset symbols; code and equations stay.

    >>> typeset("batch_size"), typeset("sam sharpness"), typeset("small_cnn"), typeset("-1.0 [-1.5, 2.0]")
    ('Batch size B', 'SAM sharpness', 'CNN', '−1.0 [−1.5, 2.0]')
    >>> typeset("λ_max &lt; 2/η, in 0.7 .. 1.5"), typeset("500.0"), typeset("<code>a -1</code>")
    ('λ<sub>max</sub> &lt; 2/η, in 0.7 to 1.5', '500', '<code>a -1</code>')
    """
    pieces: list[str] = []
    place = 0
    for kept in CODE.finditer(content):
        pieces += [words(content[place : kept.start()]), kept[0]]
        place = kept.end()
    return "".join([*pieces, words(content[place:])])


def words(text: str) -> str:
    """Return a text without tags: the name of a column or of a value in words, else with typeset symbols."""
    return NAMES.get(text.strip()) or typeset_symbols(text)
