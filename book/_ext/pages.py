"""Finish the pages: the Explorer's runs, notebooks to download, sizes of pictures, links where it is published."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flatlib.book import explorer
from flatlib.book.assets import lighten
from flatlib.book.html import finish_pages, html_pages
from flatlib.book.page_links import PageLinks
from flatlib.book.paths import CHAPTER, read_notebook
from flatlib.book.resolve import resolve, write

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.config import Config

COLAB = "https://colab.research.google.com"
REPOSITORY = re.compile(r"https://github\.com/(?!executablebooks/jupyter-book$)(?P<path>[\w.-]+/(?P<name>[\w.-]+))")
PUBLISHED = {  # settings of a book that has an address
    "sitemap_url_scheme": "{link}",
    "sitemap_excludes": ["search.html", "genindex.html"],
    "ogp_image": "_static/card.png",
    "ogp_image_alt": "A sharp valley and a flat one under the title Sharpness and generalization.",
    "ogp_social_cards": {"enable": False},
}


def configure(app: "Sphinx", config: "Config") -> None:
    """Add launch buttons if `_config.yml` has a `repository.url`, sitemap and cards if it has an `html.baseurl`.

    Without them, no page links to a repository or to an address of its own.
    """
    if REPOSITORY.fullmatch(config.html_theme_options.get("repository_url", "")):
        buttons = config.html_theme_options["launch_buttons"]
        buttons |= {"notebook_interface": "jupyterlab", "binderhub_url": "https://mybinder.org"}
        buttons |= {"colab_url": COLAB} if config.colab_branch else {}
    if config.html_baseurl:
        app.setup_extension("sphinx_sitemap")
        app.setup_extension("sphinxext.opengraph")
        about = {"ogp_site_url": config.html_baseurl, "ogp_site_name": config.html_title}
        for name, value in (PUBLISHED | about).items():
            setattr(config, name, value)


def finish(app: "Sphinx", error: Exception | None) -> None:
    """Write what the Explorer reads, and finish the HTML pages; a book on one page is finished by who prints it."""
    if error is not None or app.builder.name != "html":
        return
    pages, options = Path(app.outdir), app.config.html_theme_options
    explorer.write(Path(app.srcdir), pages / "_static" / "explorer")
    finish_pages(pages)
    lighten(pages)
    resolve_downloads(Path(app.srcdir), pages / "_sources", app.config.html_baseurl)
    if found := REPOSITORY.fullmatch(options.get("repository_url", "")):
        branch, colab = options["repository_branch"], app.config.colab_branch
        for path in sorted((pages / "_sources").rglob("*.ipynb")):
            add_install_cell(path, path.relative_to(pages / "_sources"), found, branch)
        blob = f"{COLAB}/github/{found['path']}/blob"
        for path in html_pages(pages) if colab else ():
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(f"{blob}/{branch}/", f"{blob}/{colab}/"), encoding="utf-8")


def resolve_downloads(root: Path, downloads: Path, address: str) -> None:
    """Resolve the notebooks that the pages offer for download: they are read in front ends that know no MyST."""
    for path in sorted(downloads.rglob("*.ipynb")):
        page = root / path.relative_to(downloads)
        write(path, resolve(read_notebook(path), root, PageLinks(root, page, page.parent, address)))


def add_install_cell(path: Path, place: Path, repository: re.Match[str], branch: str) -> None:
    """Insert the cell that fetches the book and installs flatlib into a notebook that may be opened alone, on Colab."""
    lines = [
        "# Opened alone, a notebook lacks flatlib, and the book's records and presets. This fetches them.",
        f"!git clone -q --depth 1 --branch {branch} {repository[0]}",
        f"%pip install -q './{repository['name']}[book]'",
        f"%cd {repository['name']}/{place.parent.as_posix()}",
    ]
    if place.match(f"claims/{CHAPTER}"):
        smoke = f"!flatlib run {place.stem} --preset smoke"
        lines.append(f"# This chapter at the smallest scale, from the start: {smoke}")
    cell = {"cell_type": "code", "id": "install-flatlib", "metadata": {}, "execution_count": None, "outputs": []}
    notebook = read_notebook(path)
    notebook["cells"].insert(1, cell | {"source": "\n".join(lines)})
    write(path, notebook)


def setup(app: "Sphinx") -> dict[str, Any]:
    """Connect both handlers."""
    app.add_config_value("colab_branch", "", "")  # of the repository, with this build's `_sources`; Colab opens them
    app.connect("config-inited", configure)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
