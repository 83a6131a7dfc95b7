"Walks through latent space, and selections that are compared: right, symmetric, and clear about what is wrong."
import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score

from drgnbook.fit import fit
from drgnbook.paths import anchor_points, density_path, direct_path, graph_path, log_density, overlaps, suspects, venn
from drgnbook.run import RunError
from drgnbook.simulate import read_truth, simulate

PATHS = pytest.mark.parametrize('path', [direct_path, graph_path, density_path])


def cloud(N=400, zdim=3, seed=0): return np.random.default_rng(seed).normal(size=(N, zdim))

def length(points): return np.linalg.norm(np.diff(points, axis=0), axis=1).sum()

@PATHS
def test_anchors_in_three_ways(path):
    "Numbers, names and points mean the same, and nothing given is changed"
    z, labels = cloud(), np.where(cloud()[:, 0] > 0, 'right', 'left')
    _, i = anchor_points(z, ['left', 'right'], labels)
    kept = z.copy()
    kw = {} if path is direct_path else dict(mean=None)
    a, b, c = path(z, i.tolist(), **kw), path(z, ['left', 'right'], labels=labels, **kw), path(z, z[i], **kw)
    for other in (b, c): assert np.array_equal(a[0], other[0]) and np.array_equal(a[1], other[1])
    assert a[1][0] == i[0] and a[1][-1] == i[1] and np.array_equal(z, kept) and a[0].shape == (len(a[1]), 3)
    assert all(np.array_equal(z[m], z[labels == l][cdist(z[labels == l].mean(0)[None], z[labels == l]).argmin()]) for m, l in zip(i, ('left', 'right')))

@PATHS
@pytest.mark.parametrize('N, anchors, labels, why', [
    (1, [0, 0], None, 'one particle alone'), (50, [3], None, 'found 1'), (50, [], None, 'found 0'), (50, [0, 50], None, 'no particle 50: they are numbered 0 to 49'),
    (50, [0, -1], None, 'no particle -1'), (50, ['a', 'b'], None, 'labels='), (50, ['a', 'b'], ['a']*50, "no particle is in class 'b': there are a"), (50, ['a', 'b'], ['a'], 'a label for each of 50'),
    (50, [[0., 0.], [1., 1.]], None, 'points of 3 coordinates'), (50, [[0., 0., 0.], [1., np.nan, 1.]], None, 'finite'), (50, [.5, 1.5], None, 'numbers of particles')])
def test_anchors_say_what_is_wrong(path, N, anchors, labels, why):
    with pytest.raises(ValueError, match=why): path(cloud(N), anchors, labels=labels)

def test_graph_path_is_the_shortest():
    "Against every walk: Floyd and Warshall's on a dense matrix of the same joints"
    z, k = cloud(60, 2), 6
    apart = cdist(z, z)
    near = np.argsort(apart + np.diag([np.inf]*60), 1)[:, :k]
    g = np.full((60, 60), np.inf)
    for i, js in enumerate(near): g[i, js] = g[js, i] = apart[i, js]
    for m in range(60): g = np.minimum(g, g[:, m, None] + g[m])
    for a, b in [(0, 1), (5, 17), (30, 59)]:
        points, i = graph_path(z, [a, b], k, None)
        assert np.isclose(length(points), g[a, b], rtol=1e-5) and np.array_equal(points, z[i])

def test_mean_cuts_the_long_joints():
    "Of 3 joints a particle, the 150 · 2 shortest: a chain with one far pair loses that jump first"
    z = np.append(np.arange(75.), 90 + np.arange(75.))[:, None] + np.random.default_rng(0).normal(size=(150, 1))*.01
    z = np.append(z, [[82.]], 0)
    assert len(graph_path(z, [74, 75], 80, None)[1]) <= 3                                      # all joints: straight on, or over the one between
    with pytest.raises(ValueError, match=r'no way from particle 74 to 75: .*mean=\d+ joins them'): graph_path(z, [74, 75], 80, 4)
    hint = int(str(pytest.raises(ValueError, graph_path, z, [74, 75], 80, 4).value).split('mean=')[1].split()[0])
    assert graph_path(z, [74, 75], 80, hint)[1][[0, -1]].tolist() == [74, 75]                  # what it says, works
    with pytest.raises(ValueError): graph_path(z, [74, 75], 80, hint - 1)                      # and nothing less
    with pytest.warns(UserWarning, match=f'mean={hint} does'): by_itself = graph_path(z, [74, 75], 80)[1]
    assert np.array_equal(by_itself, graph_path(z, [74, 75], 80, hint)[1])

def test_pieces_apart():
    z = np.concatenate([cloud(100), cloud(100) + 50])
    for path, kw in ((graph_path, dict(mean=None)), (graph_path, {}), (density_path, {})):
        with pytest.raises(ValueError, match='raise neighbours=10'): path(z, [0, 150], **kw)
    assert length(graph_path(z, [0, 150], 100, None)[0]) > 40

def test_through_several():
    "There and back through a third: each leg is a path, an anchor twice in a row is not"
    z = cloud()
    _, i = graph_path(z, [3, 40, 7, 3], mean=None)
    assert i[0] == i[-1] == 3 and {40, 7} <= set(i.tolist())
    legs = [graph_path(z, [a, b], mean=None)[1] for a, b in ((3, 40), (40, 7), (7, 3))]
    assert np.array_equal(i, np.concatenate([legs[0], legs[1][1:], legs[2][1:]]))
    with pytest.raises(ValueError, match='particle 40 is an anchor twice in a row'): graph_path(z, [3, 40, 40], mean=None)

@pytest.mark.parametrize('n', [2, 3])
def test_venn_says_each_number_where_it_belongs(n):
    "A count stands in the region of the selections that it is of, and in no other circle"
    masks = {name: np.random.default_rng(i).random(500) < .4 for i, name in enumerate('abc'[:n])}
    ax, table = venn(masks), overlaps(masks)
    circles, texts = [p.center for p in ax.patches], {t.get_text(): t.get_position() for t in ax.texts}
    for *inside, count in table.itertuples(index=False):
        if any(inside): assert [np.hypot(*np.subtract(texts[f'{count:,}'], c)) < (.8 if there else .9) for c, there in zip(circles, inside)] == inside, (inside, texts)
    with pytest.raises(ValueError, match='particles'): overlaps({'particles': masks['a']})

def test_twins_are_joined():
    "Many particles at one place are still a graph"
    z = np.repeat(np.arange(20.), 3)[:, None]*np.ones(2)
    points, i = graph_path(z, [0, 59], 8, None)
    assert np.isclose(length(points), 19*2**.5) and i[0] == 0 and i[-1] == 59
    assert np.isfinite(log_density(z)).all() and len(density_path(z, [0, 59], 8)[1]) > 1

def test_density_path_finds_the_pass():
    "Two hills with a low pass aside: the walk of least resistance goes there, not straight over the ridge"
    rng = np.random.default_rng(0)
    ring = rng.uniform(0, 2*np.pi, 4000)
    ring = ring[rng.random(4000) < np.where(np.sin(ring) > 0, 1, .1)]               # dense above, sparse below
    z = np.stack([np.cos(ring), np.sin(ring)], 1) + rng.normal(size=(len(ring), 2))*.05
    ends = [[-1., -.1], [1., -.1]]
    points, i = density_path(z, ends)
    assert points[:, 1].max() > .8 and points[:, 1].min() > -.4
    F = -log_density(z)
    resistance = lambda w: (np.linalg.norm(np.diff(z[w], axis=0), axis=1)*(np.exp(F[w][1:]) + np.exp(F[w][:-1]))/2).sum()
    assert resistance(i) < .8*resistance(graph_path(z, ends, mean=None)[1])

def test_even_steps():
    z = cloud(2000, 2)
    points, i = density_path(z, [0, 1], n=15)
    assert points.shape == (15, 2) and np.allclose(points[[0, -1]], z[[0, 1]]) and np.array_equal(i, cdist(points, z).argmin(1))
    for path in (direct_path, graph_path):
        with pytest.raises(ValueError, match='n is 2 or more'): path(z, [0, 1], n=1)


class Trained:
    "As much of a run as `suspects` asks for"
    checkpoints = []
    def __init__(self, z, agreement, loss=None): self.z, self._agreement, self._loss = z, agreement, loss
    @property
    def agreement(self):
        if self._agreement is None: raise RunError('has no agreement')
        return self._agreement
    def losses(self): return self._loss

def test_suspects(unchecked):
    "Each sign by itself, with its reason; a run that does not measure agreement has two of them"
    z = cloud(500, 2)
    z[7] = 9.
    seen = np.ones(500)*40
    seen[3] = 4.
    t = suspects(Trained(z, seen))
    assert t.far[7] and t.alone[7] and not t.faint[7] and t.faint.sum() == 1 and t.faint[3] and len(t) == 500
    assert 'little of the mean map (0.10' in t.reason[3] and 'far out' in t.reason[7] and '; no near neighbours' in t.reason[7]
    assert ((t.reason == '') == ~(t.far | t.faint | t.alone)).all() and not t.lossy.any() and t.excess.isna().all()
    bare = suspects(Trained(z, None))
    assert not bare.faint.any() and bare.agreement.isna().all() and bare.far.equals(t.far)
    assert not suspects(Trained(z, seen), far=99, faint=0, alone=99).reason.any()

def test_high_loss(unchecked):
    "In deviations that what is lossy does not stretch; none where all are alike"
    loss = np.random.default_rng(0).normal(1, .01, 500).astype(np.float32)
    loss[::20] += .1                                        # a twentieth, ten deviations up
    t = suspects(Trained(cloud(500, 2), None, loss), make=True)
    assert t.lossy[::20].all() and t.lossy.sum() < 30 and 'badly explained (loss' in t.reason[0] and abs(t.excess[::20].mean() - 10) < 1.5
    assert suspects(Trained(cloud(500, 2), None, loss), lossy=99, make=True).lossy.sum() == 0
    assert suspects(Trained(cloud(500, 2), None, np.ones(500, np.float32)), make=True).lossy.sum() == 0

def test_planted_junk_is_lossy(tmp_path):
    "Overlaps and debris have the map in them, so only the loss tells; measured when asked for, and kept"
    run = fit(simulate(n=600, D=32, snr=.3, junk=.15, out=tmp_path/'set'), zdim=2, epochs=1, decoder='basis', device='cpu', where='here', out=tmp_path/'run')
    truth = read_truth(tmp_path/'set')
    assert not suspects(run).lossy.any() and not list(tmp_path.rglob('loss.npy'))
    t = suspects(run, make=True)
    assert roc_auc_score(truth.junk, t.excess) > .95 and t.lossy[truth.state.isin(['overlap', 'debris'])].mean() > .8 and t.lossy[~truth.junk].mean() < .02
    assert suspects(run).equals(t)

def test_overlaps_count_each_particle_once():
    rng = np.random.default_rng(0)
    s = {n: rng.random(1000) < .4 for n in 'abcd'}
    t = overlaps(s)
    assert t.particles.sum() == 1000 and t.particles[t.a & ~t.b & t.c & ~t.d].item() == (s['a'] & ~s['b'] & s['c'] & ~s['d']).sum()
    assert [x.get_text() for x in venn({'x': np.arange(1000) < 600, 'y': np.arange(1000) < 0}).texts] == ['x\n600', 'y\n0', '600', 'none: 400']
    for bad, why in (({}, 'no selections'), ({'a': np.arange(3)}, "'a' is not"), ({'a': np.ones(3, bool), 'b': np.ones(2, bool)}, 'a of 3, b of 2')):
        with pytest.raises(ValueError, match=why): overlaps(bad)
    with pytest.raises(ValueError, match='found 4'): venn(s)
