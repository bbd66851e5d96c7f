"""The documentation site: `make docs` builds it."""

import logging
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
# One of furo's packages prints what any logger informs of.
logging.getLogger("jax").setLevel(logging.WARNING)

project = "gpt-twins"
author = "the authors of gpt-twins"
html_title = "gpt-twins"
extensions = ["myst_parser", "sphinx_design", "sphinx.ext.autodoc", "docs._twins.directive"]
exclude_patterns = ["_twins", "build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False  # Linen's own text on `setup`
nitpick_ignore_regex = [("py:.*", ".*")]  # types of the frameworks, whose pages are elsewhere
html_theme = "furo"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {
    "light_css_variables": {
        "twin-torch": "#b3400b",
        "twin-flax": "#1d5fb4",
        "twin-fault": "#b4121f",
        "twin-fault-background": "#ffe3e3",
        "twin-mark": "#fbeaa6",
        "twin-quiet": "#5d6470",
        "twin-string": "#2c6a36",
        "twin-line": "#d5d9df",
        "twin-empty": "#f3f4f6",
    },
    "dark_css_variables": {
        "twin-torch": "#ff9d66",
        "twin-flax": "#7db4ff",
        "twin-fault": "#ff8f8f",
        "twin-fault-background": "#4a1a1d",
        "twin-mark": "#514612",
        "twin-quiet": "#9aa1ab",
        "twin-string": "#95cf9e",
        "twin-line": "#3a3f46",
        "twin-empty": "#1b1d20",
    },
}
