"The landscape of volumes: moments, components, populations and places, against what numpy says and what is known."
import numpy as np
import pytest
import torch

from drgnbook.states import _moments, free_energy, place, populations, volume_space
from drgnbook.volume import Volume

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
    before = space.mean.data.clone()
    space.volume(space.coords[0][:2])
    assert torch.equal(before, space.mean.data)

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
