"""An exercise at the end of a chapter: other parameters, a command, and an answer that is folded."""

import shlex
from typing import Any

from flatlib.book import results
from flatlib.book.chapter import Chapter
from flatlib.book.display import show_markdown
from flatlib.claims import claim_verdict, summarize
from flatlib.errors import FlatlibError
from flatlib.runs import records


def show_exercise(chapter: Chapter, question: str, **given: Any) -> None:
    """Display a question, the command that answers it, and the answer where its runs are recorded.

    Args:
        chapter: The chapter at the parameters of its page.
        question: What to predict before the command is run.
        given: Parameters to change, with their values.
    """
    options = " ".join(f"-p {name} {shlex.quote(str(value))}" for name, value in given.items())
    command = f"flatlib run {chapter.claim.chapter} --preset {chapter.parameters.preset} {options}"
    parts = [f"**An exercise.** {question} Write your prediction down first, then run:", f"```bash\n{command}\n```"]
    show_markdown("\n\n".join([*parts, f":::{{dropdown}} Answer\n{answer(chapter, **given)}\n:::"]))


def answer(chapter: Chapter, **given: Any) -> str:
    """Return verdict and result of a chapter at changed parameters, if all its runs there are recorded."""
    name, changed = chapter.claim.chapter, Chapter(chapter.claim, vars(chapter.parameters) | given)
    try:
        requests = changed.requests()
    except FlatlibError as error:
        return f"These parameters give no runs here: {error}."
    lines = changed.recorded(requests)
    if any(config.run_id not in lines for config in requests):
        return "These runs are not recorded: the command trains them, and prints the answer."
    try:
        verdicts = chapter.claim.verdicts(records.table(lines[config.run_id] for config in requests))
    except FlatlibError as error:
        return f"These runs cannot be compared: {error}."
    return f"{claim_verdict(verdicts).capitalize()}: {summarize(verdicts)}.\n\n{results.result(verdicts, name)}"
