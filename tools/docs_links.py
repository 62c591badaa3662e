"""Do all links lead somewhere: `python tools/docs_links.py`, without a network.

Reads every Markdown file that one reads, and holds each relative link against the files that are
there and each anchor against the headings of the page that it names.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FENCED = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)
INLINE_CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*\s*$", re.MULTILINE)
OUTSIDE = re.compile(r"^[a-z][a-z0-9+.-]*:", re.IGNORECASE)


def pages() -> list[Path]:
    """README, SECURITY and the documents. The changelog names what was there at the time."""
    return [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub and the site both make it.

    >>> slug("What is *not* promised: `--trust`")
    'what-is-not-promised---trust'
    """
    plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").replace("*", "")
    return re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    """All anchors of a page; a heading that is there twice has a second one with a number."""
    found: set[str] = set()
    for heading in HEADING.findall(FENCED.sub("", page.read_text())):
        name, number = slug(heading), 0
        while (f"{name}-{number}" if number else name) in found:
            number += 1
        found.add(f"{name}-{number}" if number else name)
    return found


def broken(page: Path) -> list[str]:
    """What is wrong with the links of one page, a line each."""
    found = []
    text = INLINE_CODE.sub("", FENCED.sub("", page.read_text()))
    for link in LINK.findall(text):
        if OUTSIDE.match(link):
            continue
        path, _, anchor = link.partition("#")
        there = (page.parent / path) if path else page
        if not there.exists():
            found.append(f"{page.relative_to(ROOT)}: {link}: there is no such file")
        elif anchor and there.suffix == ".md" and anchor not in anchors(there):
            found.append(f"{page.relative_to(ROOT)}: {link}: no heading of that page is called so")
    return found


def main() -> int:
    """Print what is broken; 1 where something is."""
    wrong = [line for page in pages() for line in broken(page)]
    sys.stderr.write("".join(f"{line}\n" for line in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
