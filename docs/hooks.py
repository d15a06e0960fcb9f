"""What the site's build adds to the folder docs: pages from files of the repository's root, which GitHub wants there."""

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
PAGES = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages."""
    for uri, name in PAGES.items():
        files.append(File.generated(config, uri, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links to the files, as GitHub follows them, become links to the pages."""
    for uri, name in PAGES.items():
        markdown = markdown.replace(f"](../{name})", f"]({uri})")
    return markdown
