"""Make the README the site's home, and let pages link to files outside of docs/, such as results/mt10/comparison.png.

Every link is relative to the page's own file, so that it also works in the repository. The site gets a copy of each
file that is linked to, and the link is changed to lead there. No page may load anything from a network.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
_LOADED = re.compile(r"""<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")
_LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")


def _place(file: Path) -> str:
    """The path that a file of the repository has on the site."""
    if file == README:
        return "index.md"
    return file.relative_to(DOCS if file.is_relative_to(DOCS) else ROOT).as_posix()


def _links(markdown: str, page: Path) -> dict[str, Path]:
    """{link: file} of a page's links to files of the repository."""
    targets = {link: (page.parent / link).resolve() for link in _LINK.findall(markdown)}
    return {link: file for link, file in targets.items() if file.is_file() and file.is_relative_to(ROOT)}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the README and all files that pages link to. The links of added pages count, too."""
    files.append(File.generated(config, _place(README), abs_src_path=str(README)))
    waiting = [Path(file.abs_src_path) for file in files.documentation_pages() if file.abs_src_path]
    while waiting:
        page = waiting.pop()
        for file in _links(page.read_text(encoding="utf-8"), page).values():
            if files.get_file_from_path(_place(file)) is None:
                files.append(File.generated(config, _place(file), abs_src_path=str(file)))
                waiting += [file] if file.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Change the links of a page to the files' paths on the site."""
    folder = Path(page.file.src_uri).parent
    links = _links(markdown, Path(page.file.abs_src_path or ROOT))
    return _LINK.sub(lambda m: os.path.relpath(_place(links[m[0]]), folder) if m[0] in links else m[0], markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that loads something from a network."""
    if found := _LOADED.search(output):
        raise PluginError(f"{page.file.src_uri} should load nothing from a network. Found {found[0]}")
    return output
