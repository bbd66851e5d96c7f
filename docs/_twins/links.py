"""Links of a page to the source of a twin, which lead to the page of that file instead."""

import re

SOURCE = re.compile(r"\]\(\.\./gpt_(?:torch|flax)/(\w+)\.py\)")


def link_twin_pages(app: object, docname: str, source: list[str]) -> None:
    """Change a page's text in place, as `source-read` expects."""
    source[0] = SOURCE.sub(r"](/twins/\1.md)", source[0])
