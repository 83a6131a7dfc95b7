"A run with a mask: what it looks at, and what becomes of it when the run goes on."
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from drgnbook.assembly import large_subunit
from drgnbook.data import load_data
from drgnbook.fit import fit
from drgnbook.run import Run
from drgnbook.simulate import read_truth, simulate
from drgnbook.subspace import infer, subspace
from drgnbook.volume import Volume

QUICK = dict(zdim=1, epochs=1, decoder='basis', device='cpu', where='here')

@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    "Base and arm come and go, each on its own; the base is the larger part"
    here, whole = tmp_path_factory.mktemp('focus'), large_subunit()
    there = torch.tensor([[1., 1., b, 1., a] for a in (0., 1.) for b in (0., 1.)])
    two = replace(whole, xyz=whole.xyz[20:21], states=('none', 'base', 'arm', 'both'), occupancy=there, proportions=torch.full((4,), .25))
    ps = simulate(two, n=1000, D=32, snr=.5, junk=0., out=here/'set')
    arm = two.volume('both', 32, ps.apix) - two.volume('base', 32, ps.apix)
    return ps, read_truth(here/'set').state, Volume(arm.mask(dilate=10., edge=20.), ps.apix), here

def focused(ps, mask):
    data = load_data(ps)
    found = subspace(data, ps.pose, 1, mask=mask.data)
    return infer(data, ps.pose, found.z, data, ps.pose, found.agreement, mask=mask.data).numpy()

def r2(z, state, part): return np.corrcoef(z[:, 0], state.isin([part, 'both']))[0, 1]**2

def test_mask_focuses(pair, tmp_path):
    "A path, and what it holds, are one and the same; so are a run that lost its z and went on, and one that did not"
    ps, state, mask, _ = pair
    run = fit(ps, mask=mask.save(tmp_path/'mask.mrc'), out=tmp_path/'run', **QUICK)
    assert r2(run.z, state, 'arm') > .4 > .2 > r2(run.z, state, 'base')
    assert np.allclose(run.z, focused(ps, mask), atol=1e-4)
    shutil.copytree(run.folder, tmp_path/'again')
    again = Run.load(tmp_path/'again', 'cpu')
    (again.folder/'z_given.npy').unlink(); shutil.rmtree(again.folder/'checkpoints')
    assert np.allclose(again.resume(where='here').z, run.z, atol=1e-4)

def test_halves_share_the_mask(pair, tmp_path):
    ps, state, mask, _ = pair
    runs = fit(ps, mask=mask.data, halves=True, out=tmp_path/'two', **QUICK)
    half = np.load(tmp_path/'two/half.npy')
    for h, run in enumerate(runs): assert torch.equal(Volume.load(run.folder/'mask.mrc').data, mask.data) and r2(run.z, state[half == h], 'arm') > .4

@pytest.mark.parametrize('words, says', [(dict(mask=lambda m: Volume(m.data, 2*m.apix)), 'the particles 32 px'), (dict(mask=lambda m: m.data[:16, :16, :16]), 'the mask has 16 px'),
                                         (dict(mask=lambda m: m*2.), 'from 0 to 1'), (dict(mask=lambda m: m, z='encoder'), "z='encoder'"), (dict(mask=lambda m: m, zdim=0), 'zdim=0')])
def test_wrong_masks_leave_no_folder(pair, tmp_path, words, says):
    ps, _, mask, _ = pair
    with pytest.raises(ValueError, match=says): fit(ps, out=tmp_path/'run', **{**QUICK, **words, 'mask': words['mask'](mask)})
    assert not (tmp_path/'run').exists()
    with pytest.raises(FileNotFoundError, match='no map at'): fit(ps, mask=tmp_path/'no.mrc', out=tmp_path/'run', **QUICK)
