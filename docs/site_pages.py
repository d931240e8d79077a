"""A hook of mkdocs: files outside docs/ that are pages too, and links between all of them as they work on the site.

In the repository, links are relative to the file that they stand in. On the site, a link to one of these pages becomes
a link to the page; a link to any other file of the repository becomes its plain text.
"""

import re
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "models/README.md": "models.md",
    "firmware_configs/README.md": "boards.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
"""Pages by their path in the repository."""
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)#\s:]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages from outside docs/."""
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """Turn the repository's links into the site's."""
    own = next((source for source, name in OUTSIDE.items() if name == page.file.src_uri), f"docs/{page.file.src_uri}")
    return LINK.sub(lambda link: _site_link(link, PurePosixPath(own).parent, files), markdown)


def _site_link(link: "re.Match[str]", folder: PurePosixPath, files: Files) -> str:
    mark, text, target, anchor = link[1], link[2], link[3], link[4] or ""
    path = (ROOT / folder / target).resolve()
    if not path.exists():
        return link[0]  # strict building names it
    source = path.relative_to(ROOT).as_posix()
    name = OUTSIDE.get(source, source.removeprefix("docs/"))
    return f"{mark}[{text}]({name}{anchor})" if files.get_file_from_path(name) else text
