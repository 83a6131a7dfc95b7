"Voxel maps by normal equations, where the equations are all but singular."
import numpy as np, pytest, torch
from drgnbook.assembly import large_subunit
from drgnbook.basis import BallGrid, Equations, Residual
from drgnbook.decoder import FourierMLP
from drgnbook.fit import fit
from drgnbook.fourier import Lattice
from drgnbook.pose import Pose, random_rotations
from drgnbook.simulate import read_truth, simulate
from drgnbook.volume import distance, sphere_mask


@pytest.fixture(scope='module')
def folder(tmp_path_factory): return tmp_path_factory.mktemp('basis')

@pytest.fixture(scope='module')
def ps(folder): return simulate(large_subunit(), n=800, D=32, snr=.5, junk=0., out=folder/'set')

@pytest.fixture(scope='module')
def z(ps):
    "Whether the particle is of the first half of the states"
    return (read_truth(ps.md.path.parent).label.to_numpy() < 8).astype(np.float32)[:, None]

@pytest.fixture(scope='module')
def alone(tmp_path_factory, ps, z): return fit(ps, 1, z=z, epochs=1, decoder='basis', out=tmp_path_factory.mktemp('runs')/'alone', device='cpu', where='here').volume(z[:1])

@pytest.mark.parametrize('more', [lambda z: z + 1e-6*np.random.default_rng(0).normal(size=z.shape), np.ones_like, lambda z: 10*z, lambda z: np.repeat(z, 5, 1)], ids=['nearly', 'constant', 'large', 'six times'])
def test_dependent_columns(tmp_path, ps, z, alone, more):
    "A column that says what another says: the same maps, as far as the data tell"
    both = np.concatenate([z, more(z)], 1).astype(np.float32)
    v = fit(ps, both.shape[1], z=both, epochs=1, decoder='basis', out=tmp_path/'run', device='cpu', where='here').volume(both[:1])
    assert v.data.isfinite().all() and v.fsc(alone, sphere_mask(32))[1:10].min() > .95
    assert abs(float((v.data*alone.data).sum()/alone.data.square().sum()) - 1) < .05

@pytest.mark.parametrize('apart', [0, 1e-6, 1e-3])
def test_many_images_of_dependent_columns(apart):
    "Where data outweigh the prior a millionfold, single precision sees a singular matrix; what is predicted is right all the same"
    gen, lat = torch.Generator().manual_seed(0), Lattice(8)
    R = random_rotations(1000, gen)
    z = torch.randn(1000, 1, generator=gen)
    a = torch.cat([torch.ones_like(z), z, z + apart*torch.randn(z.shape, generator=gen), 1 - z], 1)
    f = (2 + z).to(torch.cfloat).expand(-1, len(lat))                                 # two points at the origin, one of which comes and goes
    eqs = Equations(BallGrid(8), 4)
    eqs.add(f, torch.ones(1000, len(lat)), torch.full((1000, len(lat)), 100.), Pose(R, torch.zeros(1000, 2)).slice(lat.k.float()), a)
    eqs.finish()
    maps = eqs.solve(torch.full((5, 4), 1e-3))
    seen = eqs.lhs[:, 0] > 1e4
    for x in (-1., 0., 2.): assert ((maps @ torch.tensor([1, x, x, 1 - x]).to(maps))[seen].real/(2 + x) - 1).abs().max() < .01


def test_two_boxes_at_once():
    "While a page decodes maps of one box, a monitor's thread asks for another: each gets its own"
    both = Residual(FourierMLP(16, 4., width=16))
    decode = both.field.volumes
    def slowly(z, D):
        if D == 16: both.volumes(None, 8)          # as a thread may, in the middle of this call
        return decode(z, D)
    both.field.volumes = slowly
    assert [both.volumes(None, D)[0].D for D in (16, 8, 16)] == [16, 8, 16]

def test_a_residual_begins_as_differences_do():
    "Mass is the consensus's, and up to the third ring the field counts by (k/3)²; from there on, whole"
    torch.manual_seed(0)
    both = Residual(FourierMLP(16, 4., zdim=2, width=16))
    torch.nn.init.normal_(both.field.layers[-1].weight)
    z = torch.randn(3, 2)
    ring = distance(16).round().long()
    F = lambda vs: torch.stack([torch.fft.fftshift(torch.fft.fftn(torch.fft.ifftshift(v.data))) for v in vs])
    drawn, field = F(both.volumes(z)), F(both.field.volumes(z))            # a consensus that holds nothing yet
    for k, share in enumerate([0, 1/9, 4/9, 1, 1, 1]):
        assert field[:, ring == k].abs().max() > 0 and (drawn - share*field)[:, ring == k].abs().max() < 1e-4*field.abs().max(), k
