"Neighbours and flat pictures: exact, quiet, and on a card where one is."
import io, sys, types

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from tqdm import tqdm

from drgnbook.fit import fit
from drgnbook.landscape import analyse, gmm, kmeans, knn, umap
from drgnbook.simulate import simulate
from drgnbook.volume import Volume


def cloud(N, zdim=8, seed=0): return np.random.default_rng(seed).normal(size=(N, zdim))

# knn

@pytest.mark.parametrize('N, zdim, k, batch', [(2, 1, 1, 20_000), (500, 2, 499, 7), (1000, 8, 15, 333), (997, 20, 3, 1000)])
def test_knn_against_every_pair(N, zdim, k, batch):
    z = cloud(N, zdim)
    j, d = knn(z, k, batch*(k + 1))
    apart = cdist(z, z)
    np.fill_diagonal(apart, np.inf)
    assert j.shape == d.shape == (N, k) and (np.diff(d, axis=1) >= 0).all()
    assert (j == apart.argsort(1)[:, :k]).all() and np.allclose(d, np.sort(apart, 1)[:, :k], rtol=1e-5)

def test_knn_of_twins():
    "A particle is not its own neighbour, nor there twice, however many lie at its place"
    z = np.repeat(cloud(7, 3), 40, 0)
    j, d = knn(z, 10)
    assert (d == 0).all() and (j != np.arange(280)[:, None]).all() and (j//40 == np.arange(280)[:, None]//40).all()
    assert all(len(set(row)) == 10 for row in j)

def test_knn_says_what_is_wrong():
    for z, k, why in ((cloud(5), 5, 'between 1 and the number of other particles, 4; found 5'), (cloud(5), 0, 'found 0'), (cloud(5)[:, :0], 1, 'zdim=0'), (np.full((3, 2), np.nan), 1, '3 particles have no finite z')):
        with pytest.raises(ValueError, match=why): knn(z, k)


# UMAP

def test_umap_twice():
    z = cloud(300)
    assert np.array_equal(umap(z), umap(z)) and np.isfinite(umap(z, seed=None)).all()

@pytest.mark.parametrize('z', [np.zeros((50, 3)), np.outer(np.arange(50), [1, 2, 3]), np.repeat(cloud(2, 4), 30, 0), cloud(4, 2), np.repeat(cloud(9, 4), 30, 0)], ids='point line pair four twins'.split())
def test_umap_of_thin_clouds(z): assert umap(z).shape == (len(z), 2) and np.isfinite(umap(z)).all()

def fake(monkeypatch, name, fit):
    "A module of that name whose UMAP keeps what it is given and answers with `fit(z, options)`."
    given = {}
    class UMAP:
        def __init__(self, **kw): given.update(kw)
        def fit_transform(self, z): given['z'] = z; return fit(z, given)
    for part in (name, name.split('.')[0]): monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    sys.modules[name].UMAP = UMAP
    return given

def test_umap_shows_the_time_left(monkeypatch, capsys):
    "The bar that umap-learn is asked for names the time left, and is not seen in the first two seconds"
    said = io.StringIO()
    def fit(z, given):
        for _ in tqdm(range(50), **given['tqdm_kwds']): pass
        for _ in tqdm(range(50), **{**given['tqdm_kwds'], 'delay': 0, 'mininterval': 0, 'file': said}): pass
        return z[:, :2]
    fake(monkeypatch, 'umap', fit)
    monkeypatch.delenv('TQDM_DISABLE', raising=False)
    umap(cloud(100))
    assert capsys.readouterr().err == '' and 'UMAP:  50%' in said.getvalue() and '<00:00' in said.getvalue()

def test_umap_gets_exact_neighbours(monkeypatch):
    given = fake(monkeypatch, 'umap', lambda z, given: z[:, :2])
    z = cloud(100)
    umap(z, neighbours=9, seed=None)
    (j, d), apart = given['precomputed_knn'], cdist(z, z)
    assert (j == apart.argsort(1)[:, :9]).all() and np.allclose(d, np.sort(apart, 1)[:, :9], atol=1e-6)
    assert given['random_state'] is None and given['n_neighbors'] == 9

@pytest.mark.parametrize('card', [True, False])
def test_umap_on_a_card(card, monkeypatch):
    "cuML's, where it is installed and there is a card; it has not been run on one here"
    given = fake(monkeypatch, 'cuml.manifold', lambda z, given: given['init']*2)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: card)
    z = cloud(200)
    xy = umap(z)
    assert xy.shape == (200, 2) and bool(given) == card
    if card: assert np.array_equal(xy, given['init']*2) and given['z'].dtype == np.float32 and given['random_state'] == 0 and given['output_type'] == 'numpy'
    if card: assert np.allclose(umap(z, previous=xy), xy, atol=1e-3) and given['n_epochs'] == 50

# Mixtures

@pytest.mark.parametrize('seed', range(3))
def test_gmm_counts_states(seed):
    "Five states and a sixth of 1 % are found, their number unknown, among more points than are looked at"
    from sklearn.metrics import adjusted_rand_score
    g = np.random.default_rng(seed)
    state = g.choice(6, 15_000, p=[.4, .25, .15, .1, .09, .01])
    z = (4*np.eye(6, 8))[state] + g.normal(size=(15_000, 8))*.7
    label, p = gmm(z)
    assert p.shape == (15_000, 6) and adjusted_rand_score(state, label) > .98 and np.bincount(label)[-1] < 300

def test_groups_of_one_particle():
    with pytest.raises(ValueError, match='two particles or more, found 1'): gmm(cloud(1))
    with pytest.raises(ValueError, match='two particles or more, found 1'): gmm(cloud(1), k=1)
    assert gmm(cloud(2), k=1)[1].shape == (2, 1) and kmeans(cloud(1), 1)[0].tolist() == [0]


# Files

@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr('drgnbook.landscape.umap', lambda z, **_: z[:, :2])
    ps = simulate(n=60, D=32, snr=.5, junk=0., out=tmp_path/'set')
    return fit(ps, zdim=3, epochs=1, width=16, z=np.random.default_rng(0).normal(size=(60, 3)).astype('f4'), out=tmp_path/'run', where='here', device='cpu')

def test_analysis_leaves_no_map_of_another(run, tmp_path):
    "Fewer groups, fewer components: what is in the folder is of the last call, and what others put there"
    analyse(run, k=12, pcs=3, out=tmp_path/'a')
    kept = [tmp_path/'a'/n for n in ('kmeans_1.mrc', 'kmeans_best.mrc', 'kmeans_11.txt', 'pc3_00.mrc', 'vol_011.mrc', 'pc.mrc')]
    for p in kept: p.touch()
    analyse(run, k=3, pcs=1, D=16, out=tmp_path/'a')
    analyse(run, k=3, pcs=1, D=16, out=tmp_path/'b')
    fresh, found = ({p.name for p in (tmp_path/f).iterdir()} for f in 'ba')
    assert found == fresh | {p.name for p in kept} and {Volume.load(p).D for p in (tmp_path/'b').glob('*.mrc')} == {16} and len(fresh) == 3 + 3 + 10

def test_pictures_are_whole_or_not_there(run, tmp_path, monkeypatch):
    "A disk that is full in the middle of a picture"
    def full(self, path, **kw): open(path, 'wb').write(b'half'); raise OSError('No space left on device')
    monkeypatch.setattr('matplotlib.figure.Figure.savefig', full)
    with pytest.raises(OSError, match='No space'): analyse(run, k=3, out=tmp_path/'a')
    assert not [p for p in (tmp_path/'a').iterdir() if p.suffix == '.png']
