"""Poses from nothing, poses improved, and the speed of a search beside the installed cryoDRGN's.

    python benchmarks/search.py poses|refine|speed [--map MAP.mrc --apix 6.55] [--n 5000] [--seeds 5] [--threads 2] [--peer .peer/bin/python]

Of a real map: particles of 64 px, uniform views, shifts of 8 Å, CTF, no junk; without noise and at SNR 0.1. Each seed is another set of images and another start. Errors are medians after one turn,
one move and the hand are taken away (`pose_error`). `speed`: seconds spent in `opt_theta_trans` of `cryodrgn abinit` (timed from outside, its defaults but for the grid asked for), and in `Searcher` and `polish`.
"""
import math, re, tempfile, time
from pathlib import Path
import numpy as np, torch
from fastcore.script import call_parse
from drgnbook import NothingFound, Pose, Searcher, Slicer, Volume, abinitio, load_data, look, polish, pose_error, reconstruct, refine_poses, ring_weights, rotvec_to_R, shift_grid, simulate
from sets import Peer, child, machine


def images(folder, map, apix, n, snr, seed):
    v = Volume.load(map, apix or None)
    return simulate({'one': v if v.D == 64 else v.downsample(64)}, n=n, D=64, snr=snr, junk=0., seed=seed, out=Path(folder)/f'{snr}_{seed}')


def line(ps, found, seconds, **more):
    deg, far = pose_error(ps.pose, found)
    return dict(more, deg=round(float(deg.median()), 3), wrong=round(float((deg > 10).float().mean()), 3), px=round(float(far.median())/ps.apix, 3), seconds=round(seconds))


def poses(folder, map, apix, n, seeds):
    "Ab initio."
    for snr in (math.inf, .1):
        for seed in range(seeds):
            ps, start = images(folder, map, apix, n, snr, seed), time.monotonic()
            try: found = abinitio(ps, seed=seed)
            except NothingFound as e: yield dict(snr=snr, seed=seed, failed=str(e)[:60], seconds=round(time.monotonic() - start)); continue
            yield line(ps, found.pose, time.monotonic() - start, snr=snr, seed=seed, agreement=round(found.agreement, 2), resolution=round(found.reconstruction.resolution, 1))


def perturbed(pose, apix, deg, px, gen):
    "Turned by `deg` about random axes, moved by `px` in random directions."
    unit = lambda x: torch.nn.functional.normalize(x, dim=-1)
    turn = torch.tensor(rotvec_to_R(unit(torch.randn(len(pose), 3, generator=gen)).numpy()*deg)).float()
    return Pose(turn @ pose.R, pose.t + unit(torch.randn(len(pose), 2, generator=gen))*px*apix)


def refine(folder, map, apix, n, seeds):
    "Given poses, off by 5° and 3 px."
    for seed in range(seeds):
        ps = images(folder, map, apix, n, .1, seed)
        off = perturbed(ps.pose, ps.apix, 5., 3., torch.Generator().manual_seed(seed))
        start, before = time.monotonic(), reconstruct(ps.with_poses(off)).resolution
        found = refine_poses(ps.with_poses(off))
        yield line(ps, found.pose, time.monotonic() - start, seed=seed, before=round(before, 1), after=round(found.reconstruction.resolution, 1))


TIMED = '''
import sys, time
import cryodrgn.pose_search_ai as search
inner, spent = search.opt_theta_trans, []
def timed(model, images, *args, **kw):
    start = time.perf_counter(); out = inner(model, images, *args, **kw)
    spent.append((len(out[0]), time.perf_counter() - start)); print('SEARCHED', *spent[-1], flush=True)
    if len(spent) >= 4: sys.exit(0)
    return out
search.opt_theta_trans = timed
from cryodrgn.command_line import main_commands
sys.argv = ['cryodrgn'] + sys.argv[1:]
main_commands()
'''


def speed(folder, map, apix, peer, threads):
    "Images a second in the search: 4,608 rotations × 196 shifts, then refinement."
    ps = images(folder, map, apix, 500, .1, 0)
    data, top = load_data(ps), ps.D//2 - 1.
    rec = reconstruct(ps)
    vol = rec.volume*(1/ps.D)
    w, T = ring_weights(data, vol, ps.pose, top), shift_grid(8*ps.apix, ps.apix)[:196]
    finder = Searcher(Slicer(vol, gradient=True), T)
    v = look(data, torch.arange(len(ps)), top, w)
    s, took = finder.prepare(v), []
    for part in torch.arange(len(ps)).split(32)[:12]:
        start = time.perf_counter()
        found = finder(v[part], s)
        for r in (10., 15., 20., top): found, *_ = polish(v[part].upto(r), finder.slicer, found, 2)
        took.append((time.perf_counter() - start)/len(part))
    yield dict(who='ours', shifts=len(T), images_s=round(1/np.median(took), 2))
    if not peer: return
    out = Peer(peer); out.parse(Path(ps.md.path).parent)
    words = [Path(ps.md.path).parent/'particles.mrcs', '--ctf', Path(ps.md.path).parent/'ctf.pkl', '--zdim', 0, '-o', Path(folder)/'peer', '--n-imgs-pretrain', 16, '--base-healpy', 2, '--t-ngrid', 14, '--niter', 4, '--no-analysis', '--num-workers', 0, '--seed', 0]
    printed = child([peer, '-c', TIMED, 'abinit', *words], threads).output
    rates = [int(b)/float(s) for b, s in re.findall(r'SEARCHED (\d+) ([\d.]+)', printed)][1:]
    yield dict(who='cryodrgn abinit', images_s=round(float(np.median(rates)), 3)) if rates else dict(who='cryodrgn abinit', failed=printed[-1500:])


@call_parse
def main(what: str,                          # poses, refine or speed
         map: str = 'shared/empiar10076/maps/vol_386.mrc', apix: float = 6.55, n: int = 5000, seeds: int = 5,
         threads: int = 2, peer: str = ''):
    torch.set_num_threads(threads)
    print(machine(), f'; {threads} threads')
    with tempfile.TemporaryDirectory() as tmp:
        rows = dict(poses=lambda: poses(tmp, map, apix, n, seeds), refine=lambda: refine(tmp, map, apix, n, seeds), speed=lambda: speed(tmp, map, apix, peer, threads))[what]()
        for row in rows: print(row, flush=True)
