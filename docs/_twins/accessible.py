"""What the theme leaves out of its pages, and a reader of the screen or the keyboard needs."""

from pathlib import Path

from sphinx.application import Sphinx

REPLACEMENTS = (
    ('class="caption" role="heading">', 'class="caption" role="heading" aria-level="2">'),
    ('<aside class="sidebar-drawer">', '<aside class="sidebar-drawer" aria-label="This site">'),
    ('<aside class="toc-drawer', '<aside aria-label="This page" class="toc-drawer'),
    ('<div class="highlight"><pre>', '<div class="highlight"><pre tabindex="0">'),  # it may scroll
    ('<div class="table-wrapper', '<div tabindex="0" class="table-wrapper'),
    ('<th class="head"><p></p></th>', "<td></td>"),
    ('<div id="search-results"></div>', '<h1>Search</h1><div id="search-results"> </div>'),
)


def complete(app: Sphinx, exception: Exception | None) -> None:
    """Add to the pages of a finished build; a page that was done before stays as it is."""
    if exception or app.builder.format != "html":
        return
    for path in Path(app.outdir).rglob("*.html"):
        before = path.read_text(encoding="utf-8")
        after = before
        for old, new in REPLACEMENTS:
            after = after.replace(old, new)
        if after != before:
            path.write_text(after, encoding="utf-8")
