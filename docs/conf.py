"""Settings of Sphinx, which builds these pages with `make docs`."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import generate  # noqa: E402

import phf  # noqa: E402

project = "phf"
author = "the authors of phf"
version = release = phf.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]

html_theme = "pydata_sphinx_theme"
html_title = "phf"
html_theme_options = {
    "navigation_with_keys": False,
    "show_nav_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_end": [],
    "logo": {"text": "phf"},
}
html_show_sourcelink = False
html_static_path: list[str] = []

# Markdown: definition of anchors at headings, so that pages can link to them.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# The notebook is run in every build: what it prints is what the library does today.
nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True

# Docstrings: Google style; `x` in single backticks is code.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # those of Lightning are written for its own site
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_use_ivar = True
napoleon_google_docstring = True
copybutton_prompt_text = r"\$ "


def setup(app) -> None:
    """Writes the pages that are made from the code, before Sphinx looks for pages."""
    generate.write_pages(HERE)
