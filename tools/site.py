"""What the documentation's site has beside docs/: the pages of the project's root and the files of config/.

Links are written for who reads the files in a checkout, so `../config/x` leads out of docs/ and README's lead into it.
In the site all of these stand beside each other; the links are turned accordingly, and mkdocs finds those that lead
nowhere. mkdocs calls the two functions by their names.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PROJECT: Final = Path(__file__).resolve().parents[1]
PAGES: Final[Mapping[str, str]] = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "architecture.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages of the project's root, and their names in the site."""

_TARGET: Final = re.compile(r"(?<=\]\()(?!https?:|#)(?P<path>[^)#\s]+)(?P<anchor>#[^)\s]*)?(?=\))")


def in_site(markdown: str, folder: str) -> str:
    """A page's text with its links as the site has them; `folder` is where the page stands in the checkout ("docs" or
    ""). A link to a directory, or out of what the site has, stays as it is, and mkdocs complains of it."""

    def turned(found: re.Match[str]) -> str:
        path = (PROJECT / folder / found["path"]).resolve()
        name = path.relative_to(PROJECT).as_posix() if path.is_relative_to(PROJECT) else found["path"]
        name = PAGES.get(name, name.removeprefix("docs/"))
        return name + (found["anchor"] or "")

    return _TARGET.sub(turned, markdown)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages of the root and the configuration files join those of docs/."""
    for source, name in PAGES.items():
        files.append(File.generated(config, name, content=in_site((PROJECT / source).read_text(), "")))
    for path in sorted((PROJECT / "config").rglob("*")):
        if path.is_file():
            files.append(File.generated(config, path.relative_to(PROJECT).as_posix(), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: object) -> str:
    """The text of a page of docs/ with its links turned."""
    return markdown if page.file.src_uri in PAGES.values() else in_site(markdown, "docs")
