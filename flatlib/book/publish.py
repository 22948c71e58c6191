"""A book that is published: what its pages may say once it is known where it lies and where its source is.

Without this the book has no address of its own, and no page links to one.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flatlib.book.links import html
from flatlib.book.paths import CHAPTER
from flatlib.errors import FlatlibError

REPOSITORY = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?")
BINDER = "https://mybinder.org"
COLAB = "https://colab.research.google.com"
CARD = "_static/card.png"
CARD_TEXT = "A sharp valley and a flat one under the title Sharpness and generalization."


@dataclass(frozen=True)
class Site:
    """Where a published book is.

    Attributes:
        repository: its source, ``https://github.com/OWNER/NAME``. Binder opens a chapter from there.
        branch: of the repository.
        url: the address of its pages; by default the one that GitHub Pages gives to the repository.
        notebooks: the branch that holds the `sources` of this build, if there is one. Colab opens a chapter from
            there: each has a first cell that installs flatlib, which a notebook opened alone does not have.
    """

    repository: str
    branch: str = "main"
    url: str = ""
    notebooks: str = ""

    def __post_init__(self) -> None:
        """Check the addresses."""
        if REPOSITORY.fullmatch(self.repository) is None:
            raise FlatlibError(f"--repository: expected https://github.com/OWNER/NAME, got {self.repository!r}")
        if self.url and not self.url.startswith(("https://", "http://")):
            raise FlatlibError(f"--url: expected an address such as https://example.org/book/, got {self.url!r}")

    @property
    def owner_and_name(self) -> tuple[str, str]:
        """The repository's two names."""
        return REPOSITORY.fullmatch(self.repository).groups()

    @property
    def source(self) -> str:
        """The repository's address in its one form."""
        return "https://github.com/{}/{}".format(*self.owner_and_name)

    @property
    def address(self) -> str:
        """The address of the pages, with a slash at the end."""
        owner, name = self.owner_and_name
        return f"{self.url or f'https://{owner.lower()}.github.io/{name}'}".rstrip("/") + "/"

    def configure(self, source: Path) -> None:
        """Write into the book's `_config.yml` what turns on launch buttons, canonical links, sitemap and card."""
        path = source / "_config.yml"
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        config["repository"] = {"url": self.source, "branch": self.branch}
        config["launch_buttons"] |= {"notebook_interface": "jupyterlab", "binderhub_url": BINDER}
        if self.notebooks:
            config["launch_buttons"]["colab_url"] = COLAB
        config["html"]["baseurl"] = self.address
        settings = config["sphinx"]["config"]
        settings["extensions"] += ["sphinx_sitemap", "sphinxext.opengraph"]
        settings |= {
            "sitemap_url_scheme": "{link}",
            "sitemap_excludes": ["search.html", "genindex.html"],
            "ogp_site_url": self.address,
            "ogp_site_name": config["title"],
            "ogp_image": CARD,
            "ogp_image_alt": CARD_TEXT,
            "ogp_social_cards": {"enable": False},
        }
        path.write_text(yaml.safe_dump(config), encoding="utf-8")

    def finish(self, pages: Path) -> None:
        """Give every notebook that can be downloaded the cell that installs flatlib, and send Colab to those."""
        for path in sorted((pages / "_sources").rglob("*.ipynb")):
            notebook = json.loads(path.read_text(encoding="utf-8"))
            notebook["cells"].insert(1, self.installing(path.relative_to(pages / "_sources")))
            path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        before = f"{COLAB}/github/{'/'.join(self.owner_and_name)}/blob"
        for path in html(pages) if self.notebooks else ():
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(f"{before}/{self.branch}/", f"{before}/{self.notebooks}/"), encoding="utf-8")

    def installing(self, path: Path) -> dict[str, Any]:
        """A cell that fetches the book and installs flatlib, for the notebook at `path` where it is opened alone."""
        _, name = self.owner_and_name
        lines = [
            "# Opened alone, a notebook lacks flatlib, and the book's records and presets. This fetches them.",
            f"!git clone -q --depth 1 --branch {self.branch} {self.source}",
            f"%pip install -q ./{name}",
            f"%cd {name}/{path.parent.as_posix()}",
        ]
        if path.parent.name == "claims" and path.match(CHAPTER):
            smoke = f"!flatlib run {path.stem} --preset smoke"
            lines.append(f"# This chapter at the smallest scale, from the start: {smoke}")
        about = {"cell_type": "code", "id": "install-flatlib", "metadata": {}}
        return about | {"execution_count": None, "outputs": [], "source": "\n".join(lines)}
