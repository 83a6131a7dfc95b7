"The landscape of volumes: moments, components, populations and places, against what numpy says and what is known."
from dataclasses import replace

import numpy as np
import pytest
import torch

from drgnbook.assembly import Maps, large_subunit
from drgnbook.fit import fit
from drgnbook.simulate import read_truth, simulate
from drgnbook.states import _moments, _of_maps, dense, free_energy, place, populations, sketch, volume_landscape, volume_space
from drgnbook.volume import Volume, sphere_mask

gen = torch.Generator().manual_seed(0)
MAPS = [Volume(torch.randn(12, 12, 12, generator=gen) + 5, 3.) for _ in range(9)]
STACK = torch.stack([v.data for v in MAPS]).numpy()


@pytest.mark.parametrize('weights', [None, np.arange(1., 10)])
def test_moments(weights):
    "One pass, in double precision, equals the textbook's two"
    mean, sd = _moments(iter(MAPS), weights)
    known = np.average(STACK, 0, weights)
    assert np.allclose(mean.data, known, atol=1e-5) and np.allclose(sd.data, np.average((STACK - known)**2, 0, weights)**.5, atol=1e-4)
    assert mean.apix == 3. and np.allclose(_moments(MAPS[:1])[1].data, 0)
    assert [v.origin for v in _moments([replace(v, origin=(1., 2., 3.)) for v in MAPS])] == [(1., 2., 3.)]*2

def test_space_is_pca_of_the_voxels(tmp_path):
    "From volumes or from files, inside the mask only"
    mask = np.zeros((12,)*3)
    mask[3:9, 2:8, 4:10] = 1
    space = volume_space([v.save(tmp_path/f'{i}.mrc') for i, v in enumerate(MAPS)], mask)
    x = STACK[:, mask > 0]
    s = np.linalg.svd(x - x.mean(0), compute_uv=False)
    assert np.allclose(space.explained, s[:8]**2/(s**2).sum(), rtol=1e-4) and np.allclose((space.coords**2).sum(0)**.5, s[:8], rtol=1e-4)
    for c, v in zip(space.coords, MAPS):
        again = space.volume(c).data.numpy()
        assert np.allclose(again[mask > 0], v.data.numpy()[mask > 0], atol=1e-3) and np.allclose(again[mask == 0], STACK.mean(0)[mask == 0], atol=1e-5)
    assert np.allclose(volume_space(MAPS, Volume(torch.tensor(mask).float(), MAPS[0].apix)).explained, space.explained, rtol=1e-4)
    with pytest.raises(ValueError, match=r'\(8, 8, 8\).*\(12, 12, 12\).*resample'): volume_space(MAPS, np.ones((8,)*3))
    before = space.mean.data.clone()
    space.volume(space.coords[0][:2])
    assert torch.equal(before, space.mean.data)

def test_sketch_leaves_no_map_of_another(tmp_path):
    "Fewer maps than before: those that are there are of this call, and what others put there"
    ps = simulate(n=40, D=32, snr=.5, junk=0., out=tmp_path/'set')
    run = fit(ps, zdim=2, epochs=1, width=16, z=np.random.default_rng(0).normal(size=(40, 2)).astype('f4'), out=tmp_path/'run', where='here', device='cpu')
    assert len(sketch(run, 12)[1]) == 12
    for n in ('vol_1.mrc', 'vol_011b.mrc', 'mask.mrc', 'vol_099.txt'): (tmp_path/'run/analysis/sketch'/n).touch()
    at, files = sketch(run, 5)
    assert len(at) == 5 and {p.name for p in files[0].parent.iterdir()} == {f'vol_{i:03d}.mrc' for i in range(5)} | {'particles.npy', 'vol_1.mrc', 'vol_011b.mrc', 'mask.mrc', 'vol_099.txt'}
    before = files[0].stat().st_mtime_ns
    for wrong, why in ((dict(method='leiden'), "'ward', 'average'"), (dict(states=41), 'between 1 and 40'), (dict(mask=np.ones((8,)*3)), r'\(8, 8, 8\)')):          # before maps are decoded
        with pytest.raises(ValueError, match=why): volume_landscape(run, **wrong)
    assert files[0].stat().st_mtime_ns == before

@pytest.mark.parametrize('stopped', [True, False], ids=['stopped half way', 'finished'])
def test_a_sketch_is_one(tmp_path, monkeypatch, stopped):
    "Maps, particles and landscape are of one call; a landscape whose maps have gone says so"
    ps = simulate(n=60, D=32, snr=.5, junk=0., out=tmp_path/'set')
    run = fit(ps, zdim=2, epochs=1, width=16, z=np.random.default_rng(0).normal(size=(60, 2)).astype('f4'), out=tmp_path/'run', where='here', device='cpu')
    found = volume_landscape(run, 12, states=3)
    maps, whole = found.maps(), Volume.save
    if not stopped:
        sketch(run, 12, seed=7)
        with pytest.raises(FileNotFoundError, match='another sketch.*out= of its own'): found.maps()
        return
    monkeypatch.setattr(Volume, 'save', lambda v, path: whole(v, path) if '005' not in path.name else (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt): sketch(run, 12, seed=7)
    assert all(torch.equal(a.data, b.data) for x, y in zip(maps, found.maps()) for a, b in zip(x, y)) and not [p for p in found.files[0].parent.iterdir() if p.name.startswith('.')]

def test_what_no_landscape_can_be(tmp_path):
    for wrong, why in ((MAPS[:1]*4, 'all 4 maps are the same'), ([MAPS[0], Volume(torch.ones(8, 8, 8), 3.), MAPS[1]], '12 px of 3 Å and 8 px')):
        with pytest.raises(ValueError, match=why): volume_space(wrong, np.ones((12,)*3))
    with pytest.raises(TypeError, match='list'): volume_space(iter(MAPS))
    with pytest.raises(ValueError, match='two particles'): free_energy(np.zeros((1, 2)))
    ps = simulate(n=40, D=32, snr=.5, junk=0., out=tmp_path/'set')
    run = fit(ps, zdim=2, epochs=1, width=16, z=np.random.default_rng(0).normal(size=(40, 2)).astype('f4'), out=tmp_path/'run', where='here', device='cpu')
    for wrong, why in ((dict(n=5, states=2), 'ten maps or more, found 5'), (dict(p=0), 'p=0')):
        with pytest.raises(ValueError, match=why): volume_landscape(run, **wrong)
    assert not (tmp_path/'run/analysis').exists()

def test_a_rare_state_takes_no_others_only_map():
    "Three states, of which the sketch has met two: the third takes a map that its state can spare"
    where, coords = np.array([[0.], [0.2], [9.], [10.]]), np.array([[0.], [.2], [9.]])
    assert _of_maps(np.array([0, 0, 1, 2]), np.array([0, 1, 2]), where, coords).tolist() == [0, 2, 1]
    with pytest.raises(ValueError, match='2 maps are too few for 3 states'): _of_maps(np.array([0, 1, 2]), np.array([0, 1]), np.array([[0.], [10.], [9.]]), np.array([[0.], [10.]]))

def test_places_of_a_curved_space():
    "A bend that no plane foretells; and noise, which nothing does"
    rng = np.random.default_rng(0)
    z = rng.uniform(-1, 1, (3000, 2))
    true = np.stack([z[:, 0], z[:, 1]**2, np.sin(3*z[:, 0])], 1)
    at = rng.choice(3000, 150, replace=False)
    where, r2 = place(z, at, true[at])
    assert r2 > .95 and np.abs(where - true).mean() < .03
    assert place(z, at, rng.normal(size=(150, 3)))[1] < .2

def test_populations():
    rare = np.repeat(['a', 'b', 'c'], [8970, 1000, 30])
    t = populations(rare)
    assert t.state.tolist() == ['a', 'b', 'c'] and t.particles.tolist() == [8970, 1000, 30]
    p = t.share.to_numpy()
    assert np.allclose(t.error, np.sqrt(p*(1 - p)/10_000), rtol=.1) and t.low[2] < .003 < t.high[2] and (t.low > 0).all()
    assert np.allclose(populations(rare[:1])[['share', 'error']], [[1, 0]])

def test_free_energy_error_is_that_of_the_counts():
    "Where n particles are under the smoothing kernel, F is off by its share of 1/√n"
    rng = np.random.default_rng(0)
    xy = rng.uniform(size=(40_000, 2))
    F, error, _ = free_energy(xy, 20)
    expected = (1/np.sqrt(100))*np.sqrt(1/(4*np.pi))                 # 100 a bin, a Gaussian of one bin
    assert abs(np.median(error)/expected - 1) < .15 and np.isfinite(error).all()
    middle = F[2:-2, 2:-2]
    assert middle.std() < 2*expected
    gap = free_energy(np.concatenate([xy*[.3, 1], xy*[.3, 1] + [.7, 0]]), 20)
    assert np.isnan(gap[0][10]).all() and np.isfinite(gap[0][2]).all() and np.array_equal(np.isnan(gap[0]), np.isnan(gap[1]))
    lone = free_energy(np.concatenate([xy, [[2., 2.], [3., 3.], [3., 3.]]]), 40)
    assert np.isnan(lone[0][26, 26]) and np.isfinite(lone[0][-1, -1]) and np.isfinite(lone[1][np.isfinite(lone[0])]).all()
    assert np.isfinite(free_energy(xy[:, :1], 20)[0]).any()          # volumes that lie on a line

def test_free_energy_of_a_gaussian():
    "Known in every cell: ½r², as far as there are particles to say so"
    xy = np.random.default_rng(1).normal(size=(30_000, 2))
    F, error, edges = free_energy(xy, 60)
    x, y = (.5*(e[1:] + e[:-1]) for e in edges)
    there, true = np.isfinite(F), .5*(x[:, None]**2 + y**2)
    off = F - true - np.median((F - true)[there & (true < 2)])
    assert np.abs(off/error)[there & (true < 3)].max() < 5


# Crowds

def crowds(sizes, seed=0):
    "Crowds far apart, and which one each point is of"
    rng, state = np.random.default_rng(seed), np.repeat(np.arange(len(sizes)), sizes)
    return 3*np.eye(len(sizes), 4)[state] + .3*rng.normal(size=(sum(sizes), 4)), state

@pytest.mark.parametrize('most', [20_000, 3000])
def test_dense_counts_crowds(most):
    "Their number is not given, the smallest is 0.5 %; the largest comes first; also where only half of the points are looked at"
    x, state = crowds([300, 4000, 30, 1700])
    found = dense(x, most=most)
    assert found.max() == 3 and (found == -1).mean() < .02
    assert [np.bincount(found[state == s] + 1).argmax() - 1 for s in (1, 3, 0, 2)] == [0, 1, 2, 3]

def test_dense_of_too_few():
    "One state, and no complaint"
    for x in (np.random.default_rng(0).normal(size=(7, 3)), np.zeros((40, 3)), np.zeros((1, 2))): assert dense(x).max() == 0

def test_every_state_has_a_map():
    "Also one that the sketch has missed: the nearest"
    where = np.array([[0.], [0], [1], [1], [5], [9]])
    assert _of_maps(np.array([0, 0, 1, 1, 2, -1]), np.array([0, 1, 3, 5]), where, np.array([[0.], [0], [1], [4]])).tolist() == [0, 0, 1, 2]


# A rare state, from images to the list

@pytest.fixture(scope='module')
def rare(tmp_path_factory):
    "A set of 4,000 noisy particles, 0.3 % of them without a part that all others have; and its run"
    w, folder = large_subunit(), tmp_path_factory.mktemp('rare')
    ps = simulate(Maps.of({s: w.volume(s, 32, w.box/32) for s in 'CDEB'}, [.45, .3, .25, .003]), n=4000, D=32, snr=.3, junk=0., out=folder/'set')
    return fit(ps, zdim=4, epochs=1, decoder='basis', sample=.05, batch_size=64, out=folder/'run', device='cpu', where='here'), read_truth(folder/'set').state.to_numpy() == 'B', folder

@pytest.mark.parametrize('method, states, part', [('ward', 8, .7), ('average', 4, .7), ('hdbscan', 6, .3)])      # of a crowd that others touch HDBSCAN sees the heart: 7 of 12, so 8 would be too many to ask for
def test_rare_state_is_found(rare, method, states, part):
    run, true, folder = rare
    found = volume_landscape(run, 100, states=states, method=method, out=folder/method)
    own = max((found.state == s for s in range(found.state.max() + 1)), key=lambda m: (m & true).sum()/(m | true).sum())
    assert 10 <= true.sum() <= .003*len(true) and (own & true).sum() >= part*true.sum() and (own & true).sum() >= .8*own.sum()
    row = found.rare(.01).set_index('state').loc[found.state[own][0]]
    assert row.particles == own.sum() and 0 < row.error < .002 and (method == 'hdbscan' or row.low <= true.mean() <= row.high)
    v = found.maps()[found.state[own][0]][0]
    near = {s: float(v.fsc(Volume.load(folder/f'set/truth/{s}.mrc'), sphere_mask(32))[1:8].mean()) for s in 'CDEB'}
    assert max(near, key=near.get) == 'B', near
