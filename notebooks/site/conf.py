"""How the site is built: `make docs`, from the notebooks and the pages beside this file."""

from __future__ import annotations

from pydotcompute import __version__

project = "PyDotCompute"
author = "The PyDotCompute contributors"
copyright = author  # noqa: A001 - Sphinx wants it to be called so
version = release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["**.ipynb_checkpoints", "voila", "dashboard.ipynb"]  # the last is a page of its own, by Voilà
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # they were run, and keep what they show; tests run them again
nb_render_markdown_format = "myst"

html_theme = "furo"
html_title = f"PyDotCompute {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
smartquotes = False  # errors are looked for as they are written
html_show_sphinx = False
html_copy_source = False
templates_path: list[str] = []
# Nothing comes from another server: widgets are shown as the pictures that stand in the notebooks.
nb_ipywidgets_js: dict[str, dict[str, str]] = {}
mathjax_path = "mathjax.js"  # there is none, and no page with formulas
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "monokai"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
nitpicky = False
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]
