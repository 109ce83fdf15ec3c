"Sphinx settings of moca's documentation; tools/docsite.py lays out what is built. Nothing is fetched, neither here nor by the pages."
import re
from configparser import ConfigParser
from pathlib import Path

import latex2mathml.converter

_root = next(p for p in Path(__file__).resolve().parents if (p/"settings.ini").exists())
_cfg = ConfigParser(delimiters=["="])
_cfg.read(_root/"settings.ini", encoding="utf-8")
_cfg = _cfg["DEFAULT"]

project = _cfg["lib_name"]
author = _cfg["author"]
copyright = _cfg["copyright"]
release = version = _cfg["version"]

extensions = ["myst_nb"]
nb_execution_mode = "off" # outputs are shown as the notebooks store them
nb_render_markdown_format = "myst"
nb_ipywidgets_js = {} # no script from elsewhere
nb_merge_streams = True
nb_code_prompt_show = "Show imports"
nb_code_prompt_hide = "Hide imports"
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
suppress_warnings = ["ref.python", # a class name that two modules have
                     "misc.highlighting_failure"] # cells with magics are no plain Python
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_baseurl = f"{_cfg['doc_host']}{_cfg['doc_baseurl']}/"
html_title = f"{project} {release}"
html_theme_options = {"top_of_page_buttons": []} # sources are notebooks: the pages link to them
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["moca.css"]
html_copy_source = False
html_show_sourcelink = False

# --- formulas as MathML, which browsers draw themselves: no script and no font from elsewhere -------------------------

def mathml(tex: str, display: str) -> str:
    "A formula as MathML."
    return latex2mathml.converter.convert(tex.replace(r"\lVert", r"\Vert").replace(r"\rVert", r"\Vert"), display=display)

def visit_math(self, node):
    "A formula in a line."
    from docutils import nodes
    self.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode

def visit_displaymath(self, node):
    "A formula of its own."
    from docutils import nodes
    self.body.append(f'<div class="math">{mathml(re.sub(r"%.*", "", node.astext()), "block")}</div>')
    raise nodes.SkipNode

def setup(app):
    "Register the renderer of formulas."
    app.add_html_math_renderer("mathml", inline_renderers=(visit_math, None), block_renderers=(visit_displaymath, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
