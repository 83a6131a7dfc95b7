"Maps lie where their files say; masks fit the maps they are for, and those of large boxes take no more memory than they must."
import subprocess, sys
from dataclasses import replace

import mrcfile
import nbformat
import numpy as np
import pytest
import torch
from nbclient import NotebookClient

from drgnbook.validate import map_scores
from drgnbook.volume import Volume, fsc, grid, mask_of, resolution, soft_edge, sphere_mask

PEAK = '''
import resource, sys, torch
from drgnbook.volume import sphere_mask
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1024 if sys.platform == 'linux' else 1)
sphere_mask(8)
before = peak()
m = sphere_mask(320)
print((peak() - before)/m.nbytes)
'''

@pytest.mark.parametrize('D', [7, 16, 33])
@pytest.mark.parametrize('r, edge', [(None, None), (3., 2.)])
def test_sphere_mask(D, r, edge):
    "As from a list of all coordinates"
    want = soft_edge(grid(D).norm(dim=-1) - (.42*D if r is None else r), .06*D if edge is None else edge)
    assert torch.allclose(sphere_mask(D, r, edge), want, atol=1e-5)

def test_soft_edge_leaves_its_argument():
    x = torch.linspace(-3, 3, 50); was = x.clone()
    y = soft_edge(x, 2.)
    assert torch.equal(x, was) and torch.allclose(y, .5 + .5*torch.cos(torch.pi*(x/2).clamp(0, 1)))

def test_sphere_mask_memory():
    "320 px: the mask (131 MB) and one more of its size; a list of coordinates alone would be three"
    out = subprocess.run([sys.executable, '-c', PEAK], capture_output=True, text=True, check=True).stdout
    assert float(out) < 2.5, out


# Masks and maps of different boxes

A = Volume(torch.randn(16, 16, 16, generator=torch.Generator().manual_seed(0)), 4.)

@pytest.mark.parametrize('how', [lambda m: fsc(A, A, m), lambda m: A.fsc(A, m), lambda m: map_scores([A], [A], m)], ids=['fsc', 'method', 'map_scores'])
@pytest.mark.parametrize('mask, found', [(torch.ones(8, 8, 8), '(8, 8, 8)'), (torch.ones(1, 1, 1), '(1, 1, 1)'), (np.ones((16, 16)), '(16, 16)'), (Volume(torch.ones(8, 8, 8), 8.), '(8, 8, 8), voxels of 8 Å'),
                                         (Volume(torch.ones(16, 16, 16), 2.), '(16, 16, 16), voxels of 2 Å')], ids=['small', 'one voxel', 'flat', 'small Volume', 'other voxels'])
def test_mask_of_another_box(unchecked, how, mask, found):
    "One error, that names both boxes and what to do; also where a mask of one voxel would fit any map"
    with pytest.raises(ValueError) as said: how(mask)
    assert found in str(said.value) and '(16, 16, 16) of 4 Å' in str(said.value) and '.downsample' in str(said.value)

def test_maps_of_other_boxes():
    for other in (A.downsample(8), Volume(A.data, 2.)):
        with pytest.raises(ValueError, match=rf'16 px of 4 Å and {other.D} px of {other.apix:g} Å; resample'): fsc(A, other)

def test_any_mask_is_the_same_mask():
    "An array, a tensor of any kind, a Volume; left as it was"
    m = sphere_mask(16)
    for one, two in ((m, Volume(m, 4.)), (m, m.numpy()), (m, m.double()), (m > .5, (m > .5).float())): assert torch.equal(fsc(A, A, one), fsc(A, A, two))
    assert torch.equal(mask_of(m, 16, 4.), sphere_mask(16))
    for wrong in (m - 1, 0*m):
        with pytest.raises(ValueError, match='from 0 to 1'): fsc(A, A, wrong)


# Where a map lies

def header(path):
    "All that the header says, but for the time in its label"
    with mrcfile.open(path) as m: return {n: m.header[n].tolist() for n in m.header.dtype.names if n != 'label'}

def test_origin_comes_back(tmp_path):
    "A file of another program, read and written; nothing but the origin is different from a map at zero"
    with mrcfile.new(tmp_path/'a.mrc', A.data.numpy()) as m: m.voxel_size = 4.; m.header.origin = (10, 20, 30)
    v = Volume.load(tmp_path/'a.mrc')
    assert v.origin == (10., 20., 30.) and torch.equal(v.data, A.data) and A.origin == (0., 0., 0.)
    there, zero = header(v.save(tmp_path/'b.mrc')), header(A.save(tmp_path/'c.mrc'))
    assert there == header(tmp_path/'a.mrc') and {**there, 'origin': (0., 0., 0.)} == zero

def test_origin_in_voxels(tmp_path):
    "As older files have it; one in Å counts before it"
    with mrcfile.new(tmp_path/'a.mrc', A.data.numpy()) as m: m.voxel_size = 4.; m.header.nxstart, m.header.nystart, m.header.nzstart = -8, 0, 5
    assert Volume.load(tmp_path/'a.mrc').origin == (-32., 0., 20.) and Volume.load(tmp_path/'a.mrc', apix=2.).origin == (-16., 0., 10.)
    with mrcfile.open(tmp_path/'a.mrc', 'r+') as m: m.header.origin.x = 3
    assert Volume.load(tmp_path/'a.mrc').origin == (3., 0., 0.)

@pytest.mark.parametrize('axes', [(1, 2, 3), (3, 2, 1), (2, 3, 1), (0, 0, 0)])
def test_axes_in_any_order(axes, tmp_path):
    "Columns, rows and sections may be any of x, y, z; a file that does not say has them so"
    c, r, s = (a - 1 for a in axes) if any(axes) else (0, 1, 2)
    with mrcfile.new(tmp_path/'a.mrc', A.data.numpy().transpose(2 - s, 2 - r, 2 - c).copy()) as m:
        m.voxel_size = 4.
        m.header.mapc, m.header.mapr, m.header.maps = axes
        starts = (-8, 0, 5)          # of x, y, z
        m.header.nxstart, m.header.nystart, m.header.nzstart = (starts[a] for a in (c, r, s))
    v = Volume.load(tmp_path/'a.mrc')
    assert torch.equal(v.data, A.data) and v.origin == (-32., 0., 20.)

def test_uneven_voxels(tmp_path):
    with mrcfile.new(tmp_path/'a.mrc', A.data.numpy()) as m: m.voxel_size = (4., 4., 8.)
    with pytest.raises(ValueError, match='4 × 4 × 8 Å.*apix='): Volume.load(tmp_path/'a.mrc')
    assert Volume.load(tmp_path/'a.mrc', apix=4.).apix == 4.

@pytest.mark.parametrize('binary', [sphere_mask(16, 5, 0), Volume(sphere_mask(16, 4, 0), 4.).mask(.5, edge=0)])
def test_an_edge_of_nothing(binary):
    "A mask without an edge is 0 and 1"
    assert set(binary.unique().tolist()) == {0., 1.} and torch.equal(binary > 0, sphere_mask(16, 5 if binary[8, 8, 13] else 4, 0) > 0)

def test_no_number_is_no_resolution():
    with pytest.raises(ValueError, match='not finite'): resolution(fsc(A, A*float('nan')))

def test_origin_of_a_real_map(shared):
    v = Volume.load(shared/'maps/emd_1832.map')
    assert v.origin == pytest.approx((-32*v.apix,)*3)

def test_origin_is_carried():
    v = replace(A, origin=(10., 20., 30.))
    for w in (-v, v*2., v + A, v - A, v.lowpass(20.), v.flip(), v.downsample(8)): assert w.origin == v.origin, w

@pytest.mark.parametrize('D', [32, 33])
def test_downsampling_leaves_a_map_where_it_is(D):
    "The centre of a blob, in the frame of the origin, from an even and from an odd box"
    at = torch.tensor([9., -5., 4.])
    v = Volume(torch.exp(-((grid(D)*2 - at)**2).sum(-1)/2/6**2), 2., (100., 0., -50.))
    def middle(v): return ((grid(v.D) + v.D//2)*v.data[..., None]).sum((0, 1, 2))/v.data.sum()*v.apix + torch.tensor(v.origin)
    assert (middle(v.downsample(16)) - middle(v)).abs().max() < .05


# Pictures

def test_a_fresh_kernel_shows_figures(monkeypatch):
    "The first figure of a kernel is a picture, once, and not its name in words"
    monkeypatch.delenv('MPLBACKEND')          # the tests' own; a kernel takes its notebook's
    cells = 'import torch\nfrom drgnbook import Volume, show_volumes\nv = Volume(torch.eye(8).expand(8, 8, 8), 4.)\nshow_volumes([v, v])', 'v.sections()'
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    NotebookClient(nb, kernel_name='python3', timeout=120).execute()
    for cell in nb.cells: assert ['image/png' in o.data for o in cell.outputs] == [True], cell.outputs
