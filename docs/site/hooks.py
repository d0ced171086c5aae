"""What the web site adds to the pages of docs/: README and CONTRIBUTING as pages, and generated tables."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent))
import reference

ROOT = Path(__file__).parents[2]
# Pages that lie beside docs/ → their names on the site.
OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}


def inside(text: str) -> str:
    """Return a page from beside docs/ with the links that it needs inside."""
    text = re.sub(r"\]\(docs/", "](", text)
    for name, page in OUTSIDE.items():
        text = text.replace(f"]({name}", f"]({page}")
    return text


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie beside docs/."""
    for name, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=inside((ROOT / name).read_text("utf-8"))))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point links that lead out of docs/ at pages of the site, or make them text, and fill in the generated tables."""
    for name, target in OUTSIDE.items():
        markdown = re.sub(rf"\]\(((?:\.\./)*)\.\./{name}", rf"](\1{target}", markdown)
    # Folders of code beside docs/ have no page: their paths stay as text.
    markdown = re.sub(r"\[([^\]]*)\]\((?:\.\./)*examples(?:/\w+)?\)", r"`\1`", markdown)
    return reference.filled(markdown)
