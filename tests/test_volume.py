"Masks of large boxes take no more memory than they must."
import subprocess, sys

import pytest
import torch

from drgnbook.volume import grid, soft_edge, sphere_mask

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
