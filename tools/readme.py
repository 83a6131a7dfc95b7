"Write README.md from nbs/index.ipynb: nbdev's processors, then nbconvert's Markdown. Quarto is not needed."
import os, re
from pathlib import Path

from nbconvert import MarkdownExporter
from nbdev.process import NBProcessor
from nbdev.processors import clean_magics, hide_, hide_line, rm_export, rm_header_dash, strip_ansi
import nbformat
from execnb.nbio import nb2str

ROOT = Path(__file__).parents[1]
NOTICE = '<!-- Made from nbs/index.ipynb by `make export`: edit the notebook. -->\n\n'


def from_root(link):
    "A link to a file beside the notebook, as seen from README.md; any other link as it is."
    path = os.path.normpath(f'nbs/{link[2]}')
    return f'{link[1]}({path})' if (ROOT/path).exists() else link[0]


def readme():
    "The text of README.md"
    procs = [strip_ansi, hide_line, rm_header_dash, rm_export, clean_magics, hide_]
    doc = NBProcessor(ROOT/'nbs/index.ipynb', procs=procs, process=True).nb
    text, _ = MarkdownExporter().from_notebook_node(nbformat.reads(nb2str(doc), as_version=4))
    return NOTICE + re.sub(r'(\[[^\]\n]*\])\(([^)\s]+)\)', from_root, text).strip() + '\n'


if __name__ == '__main__': (ROOT/'README.md').write_text(readme(), encoding='utf-8')
