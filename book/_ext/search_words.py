"""Words under which the search finds a page first, and excerpts without the TeX behind equations."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

if TYPE_CHECKING:
    from sphinx.application import Sphinx

WORDS = {  # by page: names and abbreviations that its title spells out, or does not have
    "book/claims/01_lr_batch": ("batch size", "learning rate"),
    "book/claims/02_linear_scaling": ("linear scaling rule",),
    "book/claims/03_sam": ("SAM", "sharpness-aware minimization"),
    "book/claims/04_dropout": ("dropout",),
    "book/claims/05_batch_norm": ("batch normalization", "batchnorm"),
    "book/claims/06_weight_decay": ("weight decay", "L2 regularization"),
    "book/claims/07_adam_vs_sgd": ("Adam", "SGD", "AdamW"),
    "book/claims/08_progressive_sharpening": ("edge of stability", "progressive sharpening"),
    "book/claims/09_label_smoothing": ("label smoothing",),
    "book/claims/10_minimum_sharpness": ("minimum sharpness", "Dinh"),
    "book/claims/11_regularisers": ("mixup", "augmentation", "regularization"),
    "book/method/primer": ("Hessian", "sharpness", "Jacobian"),
    "book/method/curvature": ("Lanczos", "Hutchinson", "bootstrap"),
}
SKIPPED = '".headerlink", "script", "style"'  # by Sphinx, where it makes an excerpt from a page


class IndexWords(SphinxTransform):
    """Add the words of a page to the index, which the search gives more weight than titles."""

    default_priority = 400  # before Sphinx collects the index

    def apply(self, **kwargs: Any) -> None:
        """Put the entries after the first heading, which Sphinx expects first."""
        words, section = WORDS.get(self.env.docname, ()), self.document.next_node(nodes.section)
        if words and section is not None:
            entries = [("single", word, section["ids"][0], "main", None) for word in words]
            section.insert(1, addnodes.index(entries=entries))


def clean_excerpts(app: "Sphinx", error: Exception | None) -> None:
    """Let the search leave the source of equations out of its excerpts."""
    script = Path(app.outdir) / "_static" / "searchtools.js"
    if error is None and script.is_file():
        text = script.read_text(encoding="utf-8")
        script.write_text(text.replace(f"[{SKIPPED}]", f'[{SKIPPED}, "annotation"]'), encoding="utf-8")


def setup(app: "Sphinx") -> dict[str, Any]:
    """Connect both."""
    app.add_transform(IndexWords)
    app.connect("build-finished", clean_excerpts)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
