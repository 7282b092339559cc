"""A hook of mkdocs: the pages at the repository's root are pages of the site, README.md its first, and links follow."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for page in sorted(ROOT.glob("*.md")):
        files.append(File.generated(config, page.name, abs_src_path=str(page)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as the site needs them: docs/ is its root, and what is no page (a folder, a script) is text."""
    if "/" not in page.file.src_path:
        markdown = markdown.replace("](docs/", "](").replace("](../", "](")
    else:
        markdown = re.sub(r"\]\(\.\./\.\./(\w+\.md)", r"](../\1", markdown)
    return re.sub(r"\[([^\]]+)\]\((?!https?:)(?![^)]*\.(?:md|png))[^)#]+\)", r"\1", markdown)
