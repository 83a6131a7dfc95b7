"What readers meet: links lead somewhere, words are spelt right, the code of README runs, the site lists every page."
import ast, io, os, re, shlex, shutil, subprocess, sys, tokenize
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np, pytest, torch, yaml
from execnb.nbio import read_nb
from markdown_it import MarkdownIt

import drgnbook
from drgnbook import large_subunit, simulate

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(p for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)
TEXTS = [ROOT/name for name in ('README.md', 'BENCHMARKS.md', 'CHANGELOG.md')]
PAGES = [*NOTEBOOKS, *TEXTS]
FOLDERS = 'nbs tests tools benchmarks drgnbook'.split()
each_page = pytest.mark.parametrize('page', PAGES, ids=lambda p: str(p.relative_to(ROOT)))
md = MarkdownIt().enable('table')
HOME = 'https://github.com/drgnbook/drgnbook/blob/main/'      # a file that the site does not have


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
    url = urlparse(link.removeprefix(HOME))
    if link.startswith(HOME): page = ROOT/'README.md'
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
    for link in ('nbs/nowhere.ipynb', '#no-such-heading', 'http://example.org', 'https://exa mple.org', 'nbs/index.ipynb#nowhere', '../outside.md', HOME + 'NOTHING.md', HOME + 'BENCHMARKS.md#nowhere'): assert broken(page, link), link
    for link in ('LICENSE', '#licence', 'nbs/index.ipynb#two-commands', 'https://example.org/a#b', HOME + 'BENCHMARKS.md#poses'): assert not broken(page, link), link
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


# The code of README

def code(kind):
    "The blocks of a language in README, in their order"
    return [t.content for t in md.parse((ROOT/'README.md').read_text()) if t.type == 'fence' and t.info == kind]

@pytest.fixture
def project(tmp_path, monkeypatch):
    "A folder in which there is what README speaks of: J42/particles.cs"
    ps = simulate(large_subunit().maps(32, 12.6), n=60, D=32, apix=12.6, snr=1., junk=0., out=tmp_path/'J42')
    ps.write(tmp_path/'J42/particles.cs')
    monkeypatch.chdir(tmp_path)
    return tmp_path

def smaller(monkeypatch, **quick):
    "README's boxes and epochs are those of real particles; here they are as small as can be"
    fit, downsample = drgnbook.fit, drgnbook.Particles.downsample
    monkeypatch.setattr(drgnbook.Particles, 'downsample', lambda self, D, **k: downsample(self, D//8, **k))
    return lambda *args, **words: fit(*args, **words, **quick)

def test_readme_python(project, monkeypatch):
    "Line by line; the hand that lassos is the test's"
    block, = code('python')
    here = {}
    for line in ast.parse(block).body:
        exec(compile(ast.Module([line], []), 'README.md', 'exec'), here)
        if isinstance(line, ast.ImportFrom): here['fit'] = smaller(monkeypatch, epochs=1, width=16, device='cpu')
        if 'ex' in here and not here['ex'].selected.any(): here['ex'].selected = np.arange(len(here['full'])) < 20
    lassoed = drgnbook.Particles.read('lassoed.star', datadir='J42')
    assert len(lassoed) == 20 and lassoed.D == 32 and torch.equal(lassoed.pose.t, here['full'].pose.t[:20])
    assert drgnbook.Volume.load('lassoed.mrc').D == 32 and here['run'].volume(here['ex'].z).D == 16
    labels, centres = drgnbook.kmeans(here['run'].z, 20)                   # in the sentence below the block
    assert here['run'].volume(here['run'].z[centres[3]]).D == 16 and len(here['full'][labels == 3]) == (labels == 3).sum() > 0

SHELL = [shlex.split(line, comments=True) for block in code('sh') for line in block.splitlines() if line.strip()]

def test_readme_drgnbook(project):
    "The commands of drgnbook, one after another; a smaller network is added to the first, and its box is what the images have"
    from drgnbook.cli import main
    words = [words[1:] for words in SHELL if words[0] == 'drgnbook']
    assert [w[0] for w in words] == ['fit', 'analyse', 'select']
    words[0] = [{'128': '16'}.get(w, w) for w in words[0]] + '--epochs 1 --width 16 --device cpu'.split()
    assert [main(w) for w in words] == [0, 0, 0]
    kept = drgnbook.Particles.read('kept.cs', datadir='J42')
    assert (project/'run1/analysis').is_dir() and 0 < len(kept) < 60 and kept.D == 32

@pytest.mark.parametrize('words', [w for w in SHELL if w[0] == 'make'], ids=' '.join)
def test_readme_make(words, tmp_path):
    "make knows what to do, and each program and file that it would call is there; test_quickstart runs what `make demo` does, and this is `make test`"
    ready = tmp_path/'venv/.ready'
    ready.parent.mkdir(); ready.touch()
    would = subprocess.run([*words, '-n', f'VENV={ready.parent}'], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = re.findall(r'(?:tools|nbs|tests)/[\w./]+', would)
    assert named and all((ROOT/n).exists() for n in named), would

def test_readme_pip(tmp_path):
    "pip install . makes of this tree what settings.ini says; nothing is fetched, nothing is installed"
    assert [w for w in SHELL if w[0] == 'pip'] == [['pip', 'install', '.']] and {w[0] for w in SHELL} == {'make', 'pip', 'drgnbook'}
    shutil.copytree(ROOT, tmp_path/'tree', ignore=shutil.ignore_patterns('.*', 'nbs', 'tests', 'benchmarks', 'build', 'demo', '*.egg-info'))
    words = [sys.executable, '-m', 'pip', 'install', '--no-deps', '--no-build-isolation', '--ignore-installed', '--dry-run', '.']
    said = subprocess.run(words, cwd=tmp_path/'tree', capture_output=True, text=True)
    assert said.returncode == 0 and f'drgnbook-{drgnbook.__version__}' in said.stdout, said.stdout + said.stderr


# Site and citation

def test_sidebar():
    "Each page of the site once, and no page that is not there"
    def pages(x): return [p for y in x for p in pages(y)] if isinstance(x, list) else pages(x['contents']) if isinstance(x, dict) else [x]
    listed = pages(yaml.safe_load((ROOT/'nbs/sidebar.yml').read_text())['website']['sidebar']['contents'])
    there = [str(p.relative_to(ROOT/'nbs')) for p in NOTEBOOKS]
    assert sorted(listed) == sorted(there), set(listed) ^ set(there)

def test_citation():
    "What GitHub needs to show it, the version of the package, and the papers of README"
    cff = yaml.safe_load((ROOT/'CITATION.cff').read_text())
    assert {'cff-version', 'message', 'title', 'authors'} <= cff.keys() and cff['version'] == drgnbook.__version__ and cff['license'] == 'Apache-2.0'
    assert all({'type', 'title', 'authors', 'year'} <= r.keys() and r['authors'] for r in cff['references'])
    dois = {r['doi'] for r in cff['references'] if 'doi' in r}
    assert all(re.fullmatch(r'10\.\d{4,9}/\S+', d) for d in dois)
    assert {link.removeprefix('https://doi.org/') for link in links((ROOT/'README.md').read_text()) if 'doi.org' in link} <= dois

def test_pictures_are_small():
    "A page should open at once"
    heavy = {p.name: p.stat().st_size for p in (ROOT/'nbs/images').glob('*.png') if p.stat().st_size > 150_000}
    assert not heavy, heavy
