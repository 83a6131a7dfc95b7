"What readers meet: links lead somewhere, words are spelt right, the code of README runs, the site lists every page."
import ast, importlib, io, re, shlex, subprocess, sys, tokenize
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest, yaml
from execnb.nbio import read_nb
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
TEXTS = [ROOT/name for name in ('README.md', 'BENCHMARKS.md', 'CHANGELOG.md')]
PAGES = [*NOTEBOOKS, *TEXTS]
FOLDERS = 'nbs tests tools benchmarks drgnbook'.split()
each_page = pytest.mark.parametrize('page', PAGES, ids=lambda p: str(p.relative_to(ROOT)))
md = MarkdownIt().enable('table')


def markdown(page):
    "The prose of a page, as Markdown"
    return '\n\n'.join(c.source for c in read_nb(page).cells if c.cell_type == 'markdown') if page.suffix == '.ipynb' else page.read_text()

def tokens(text):
    "All tokens, those inside of paragraphs too"
    for t in md.parse(text): yield t; yield from t.children or []

def links(text):
    "Where links and pictures lead, those in HTML too"
    for t in tokens(text):
        if t.type == 'link_open': yield t.attrs['href']
        elif t.type == 'image': yield t.attrs['src']
        elif t.type in ('html_block', 'html_inline'): yield from re.findall(r'(?:href|src|srcset)="([^"]*)"', t.content)

def anchors(text):
    "What the headings are called in links, as GitHub and Quarto make it"
    parsed = md.parse(text)
    titles = [after.content for t, after in zip(parsed, parsed[1:]) if t.type == 'heading_open']
    return {re.sub(r'[^\w\- ]', '', t.lower()).strip().replace(' ', '-') for t in titles}

def broken(page, link):
    "Why a link leads nowhere, or None; nothing is asked of the network"
    url = urlparse(link)
    if url.scheme or url.netloc: return None if url.scheme == 'https' and '.' in url.netloc and not re.search(r'\s', link) else 'not https://host/...'
    there = (page.parent/unquote(url.path)).resolve() if url.path else page
    if ROOT not in there.parents or not there.exists(): return 'no such file'
    if url.fragment and url.fragment not in anchors(markdown(there)): return f'no heading of that name; there are {sorted(anchors(markdown(there)))}'


# Links

@each_page
def test_links(page):
    wrong = {link: why for link in links(markdown(page)) if (why := broken(page, link))}
    assert not wrong, wrong

@each_page
def test_files_named(page):
    "A file of this repository that the prose names is there"
    named = [t.content for t in tokens(markdown(page)) if t.type == 'code_inline']
    paths = [m for name in named for m in re.findall(rf'^(?:python )?((?:{"|".join(FOLDERS)})/[\w/.]+\.(?:py|ipynb|md|png|csv))\b', name)]
    lost = [p for p in paths if not (ROOT/p).exists()]
    assert not lost, lost

def test_wrong_links_are_seen():
    page = ROOT/'README.md'
    for link in ('nbs/nowhere.ipynb', '#no-such-heading', 'http://example.org', 'https://exa mple.org', 'nbs/index.ipynb#nowhere', '../outside.md'): assert broken(page, link), link
    for link in ('LICENSE', '#licence', 'nbs/index.ipynb#two-commands', 'https://example.org/a#b'): assert not broken(page, link), link
    assert list(links('a [b](c "d") `[no](no)` ![e](f) <a href="g">h</a>\n\n    [no](no)\n')) == ['c', 'f', 'g']


# Spelling

def said(page):
    "Prose, comments and docstrings of a page, one a line; no code, no links"
    lines = [t.content for t in tokens(markdown(page)) if t.type == 'text']
    for cell in read_nb(page).cells if page.suffix == '.ipynb' else []:
        if cell.cell_type == 'code' and not cell.source.startswith('%'): lines += [*comments(cell.source), *docstrings(cell.source)]
    return '\n'.join(lines)

def comments(source):
    try: return [t.string for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == tokenize.COMMENT and not t.string.startswith('#|')]
    except (tokenize.TokenError, IndentationError): return []

def docstrings(source):
    kinds = ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef
    try: return [ast.get_docstring(n) or '' for n in ast.walk(ast.parse(source)) if isinstance(n, kinds)]
    except SyntaxError: return []

def misspelt(folder):
    "What `typos` finds in the texts of a folder"
    words = [str(Path(sys.executable).parent/'typos'), '--config', str(ROOT/'typos.toml'), '--format', 'brief', '--no-check-filenames', '.']
    run = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert run.returncode in (0, 2), run.stderr
    return sorted({re.sub(r':\d+:\d+: error:', ':', line) for line in run.stdout.splitlines()})

def test_spelling(tmp_path):
    "British; words that only look wrong go into typos.toml"
    for page in PAGES: (tmp_path/f'{"_".join(page.relative_to(ROOT).with_suffix("").parts)}.txt').write_text(said(page))
    assert not misspelt(tmp_path)

def test_wrong_words_are_seen(tmp_path):
    (tmp_path/'a.txt').write_text('We recieve colored images and normalize them. We receive coloured images and normalise them.')
    assert [re.search('`(.*?)`', line)[1] for line in misspelt(tmp_path)] == ['colored', 'normalize', 'recieve']
