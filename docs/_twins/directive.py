"""The Sphinx extension: `{twins} model.py` is the page of that file."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata

from docs._twins.accessible import complete
from docs._twins.columns import Side
from docs._twins.docstrings import process_docstring
from docs._twins.figures import read_effects, read_parity
from docs._twins.links import link_twin_pages
from docs._twins.page import TwinPage
from docs._twins.runs import flax_shapes, torch_shapes
from docs._twins.shapes import Shapes

ROOT = Path(__file__).parents[2]
PARITY = ROOT / "docs/figures/parity.json"
EFFECTS = ROOT / "docs/figures/faults.json"
SHAPES: dict[str, Callable[[], dict[str, Shapes]]] = {"torch": torch_shapes, "flax": flax_shapes}


class Twins(SphinxDirective):
    """Both twins of a file side by side."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return the page, and have it built again when what it shows has changed."""
        file = self.arguments[0]
        sides = {framework: _side(framework, file) for framework in SHAPES}
        sources = [_path(framework, file) for framework in SHAPES]
        for path in (PARITY, EFFECTS, *sources, *Path(__file__).parent.glob("*.py")):
            self.env.note_dependency(str(path))
        try:
            page = TwinPage(file, sides, read_parity(PARITY), read_effects(EFFECTS))
            return [nodes.raw("", page.html(), format="html")]
        except ValueError as error:
            raise self.error(str(error)) from error


def _path(framework: str, file: str) -> Path:
    return ROOT / f"gpt_{framework}" / file


@cache
def _side(framework: str, file: str) -> Side:
    shapes = SHAPES[framework]().get(file, {})
    return Side(framework, _path(framework, file).read_text(), shapes)


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register what the site adds to Sphinx."""
    app.add_directive("twins", Twins)
    app.connect("autodoc-process-docstring", process_docstring)
    app.connect("source-read", link_twin_pages)
    app.connect("build-finished", complete)
    app.add_css_file("twins.css")
    app.add_js_file("twins.js", loading_method="defer")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
