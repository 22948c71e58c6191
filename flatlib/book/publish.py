"""Settings of a published book in its `_config.yml`: the addresses of its source and of its pages."""

import re
from pathlib import Path

import yaml

from flatlib.errors import FlatlibError

REPOSITORY = re.compile(r"https://github\.com/([\w.-]+)/([\w.-]+?)(?:\.git)?/?")


def add_address(config: Path, repository: str, branch: str = "main", url: str = "", notebooks: str = "") -> None:
    """Write the address of a book into its `_config.yml`: launch buttons, canonical links, a sitemap and cards follow.

    Args:
        config: The file to change, of a copy of the book.
        repository: Source of the book, ``https://github.com/OWNER/NAME``. Binder opens a chapter from there.
        branch: Branch of the repository.
        url: Address of the pages; by default the one that GitHub Pages gives to the repository.
        notebooks: Branch that holds the ``_sources`` of this build, if there is one. Colab opens a chapter from there:
            each has a first cell that installs flatlib.

    Raises:
        FlatlibError: A malformed address.
    """
    found = REPOSITORY.fullmatch(repository)
    if found is None:
        raise FlatlibError(f"--repository: expected https://github.com/OWNER/NAME, got {repository!r}")
    if url and not url.startswith(("https://", "http://")):
        raise FlatlibError(f"--url: expected an address such as https://example.org/book/, got {url!r}")
    owner, name = found.groups()
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    settings["repository"] = {"url": f"https://github.com/{owner}/{name}", "branch": branch}
    settings["html"]["baseurl"] = (url or f"https://{owner.lower()}.github.io/{name}").rstrip("/") + "/"
    settings["sphinx"]["config"]["colab_branch"] = notebooks
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
