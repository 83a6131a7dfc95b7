"""Poses from nothing, poses improved, and the speed of a search beside the installed cryoDRGN's.

    python benchmarks/search.py poses|refine|het|speed|beside [--map MAP.mrc --apix 6.55] [--n 5000] [--seeds 5] [--threads 2] [--peer .peer/bin/python]

Of a real map: particles of 64 px, uniform views, shifts of 8 Å, CTF, no junk; without noise and at SNR 0.1. Each seed is another set of images and another start. Errors are medians after one turn,
one move and the hand are taken away (`pose_error`), of rotations also as |R - R'|² (`frobenius2`, the unit of the first paper). `het`: particles of EMPIAR-10076's four major states (SNR 0.63 inside 105 Å); by state, median error and share beyond 10°. `speed`: images a second in
`opt_theta_trans` of `cryodrgn abinit` and `abinit_het_old` (timed from outside; its defaults but for the grid asked for and batches of 4: each of 16 takes minutes of one thread), and in `Searcher` and `polish`, batches by turns. `beside`: poses from nothing, ours and those of `cryodrgn abinit` after each of its epochs, of the first thousand images without noise; its map is of voxels
(`--explicit-volume`: its network takes ten times as long) and its shifts are searched for within 8 px. Half an hour of one core, of which less than a minute is ours.
"""
import math, pickle, subprocess, tempfile, time
from pathlib import Path
import numpy as np, pandas as pd, torch
from fastcore.script import call_parse
from drgnbook import NothingFound, Pose, Run, Searcher, Slicer, Volume, abinitio, angle_between, kmeans, label_scores, load_data, look, polish, pose_error, pose_scores, read_truth, reconstruct, refine_poses, ring_weights, rotvec_to_R, shift_grid, simulate, subspace
from quality import watch
from sets import Peer, assembling_set, env, machine


def images(folder, map, apix, n, snr, seed, D=64):
    v = Volume.load(map, apix or None)
    return simulate({'one': v if v.D == D else v.downsample(D)}, n=n, D=D, snr=snr, junk=0., seed=seed, out=Path(folder)/f'{snr}_{seed}')


def line(ps, found, seconds, **more):
    (deg, far), F = pose_error(ps.pose, found), pose_scores(found, ps.pose)['Frobenius² median']
    return dict(more, deg=round(float(deg.median()), 3), frobenius2=round(F, 5), wrong=round(float((deg > 10).float().mean()), 3), px=round(float(far.median())/ps.apix, 3), seconds=round(seconds))


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


def groups(z, state):
    "Adjusted Rand index of k-means with as many groups as states, and the share of images in the group that stands for their state."
    from scipy.optimize import linear_sum_assignment
    found, names = kmeans(z, len(set(state)))[0], sorted(set(state))
    hits = np.array([[((found == g) & (state == s)).sum() for s in names] for g in range(len(names))])
    return dict(ari=round(label_scores(found, state)['ari'], 3), accuracy=round(float(hits[linear_sum_assignment(-hits)].sum()/len(z)), 3))


def het(folder, data, n, seeds):
    "Several states: poses of one map for all, then the linear subspace; as `fit(ps, pose='search', zdim=4)` does before it trains."
    for seed in range(seeds):
        ps = assembling_set(Path(folder)/f'four_{seed}', data, n, seed)
        state = read_truth(Path(folder)/f'four_{seed}').state.to_numpy()
        tried = dict(true=lambda: ps.pose, found=lambda: abinitio(ps, seed=seed).pose)
        for poses, get in tried.items():
            start = time.monotonic()
            try: pose = get()
            except NothingFound as e: yield dict(seed=seed, poses=poses, failed=str(e)[:110], seconds=round(time.monotonic() - start)); continue
            took, z, deg = time.monotonic() - start, subspace(load_data(ps), pose, 4, seed=seed).z.numpy(), pose_error(ps.pose, pose)[0]
            yield line(ps, pose, took, poses=poses, seed=seed, **groups(z, state), by_state={s: (round(float(deg[state == s].median()), 2), round(float((deg[state == s] > 10).float().mean()), 3)) for s in sorted(set(state))})


TIMED = '''
import sys, time
import cryodrgn.pose_search_ai as new, cryodrgn.pose_search as old
def timed(inner):
    def search(*args, **kw):
        print('READY', flush=True)
        if not sys.stdin.readline(): sys.exit(0)
        start, begun = time.perf_counter(), time.process_time(); out = inner(*args, **kw)
        print('SEARCHED', len(out[0])/(time.perf_counter() - start), len(out[0])/(time.process_time() - begun), flush=True)
        return out
    return search
for where in (new, old.PoseSearch): where.opt_theta_trans = timed(where.opt_theta_trans)
from cryodrgn.command_line import main_commands
sys.argv = ['cryodrgn'] + sys.argv[1:]
main_commands()
'''


OTHERS = {'cryodrgn abinit': ['abinit', '--zdim', 0, '--n-imgs-pretrain', 16, '--niter', 4, '--no-analysis', '--num-workers', 0, '--batch-size-hps', 4],
          'cryodrgn abinit_het_old': ['abinit_het_old', '--zdim', 8, '--pretrain', 16, '--niter', 4, '--batch-size', 4]}

class Other:
    "A program of cryoDRGN's that waits before each batch that it searches for until it is told to go on."
    def __init__(self, peer, words, folder, out, threads):
        command = [peer, '-c', TIMED, *words, folder/'particles.mrcs', '--ctf', folder/'ctf.pkl', '-o', out, '--base-healpy', 2, '--t-ngrid', 14, '--seed', 0]
        self.log = open(f'{out}.log', 'w')
        self.it = subprocess.Popen([*map(str, command)], env=env(threads), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.until('READY')

    def until(self, word):
        for line in self.it.stdout:
            if line.startswith(word): return line.split()[1:]
        raise RuntimeError(Path(self.log.name).read_text()[-2000:])

    def rate(self):
        "Images a second, and a second of processor time, in its next batch."
        print(file=self.it.stdin, flush=True)
        rate = self.until('SEARCHED')
        self.until('READY')
        return tuple(map(float, rate))

    def close(self): self.it.stdin.close(); self.it.stdout.close(); self.it.terminate(); self.it.wait(); self.log.close()


def ours(ps, last, rings):
    "What searches for some images: base grid, levels up to `last`, then downhill up to each of `rings`; with poses and what is known of the map."
    data, top = load_data(ps), ps.D//2 - 1.
    vol = reconstruct(ps).volume*(1/ps.D)
    finder = Searcher(Slicer(vol, gradient=True), shift_grid(8*ps.apix, ps.apix)[:196], last=last)
    v = look(data, torch.arange(len(ps)), top, ring_weights(data, vol, ps.pose, top))
    s = finder.prepare(v)
    def search(part):
        found = finder(v[part], s)
        for r in rings: found, *_ = polish(v[part].upto(r), finder.slicer, found, 2)
        return found
    return search


def speed(folder, map, apix, peer, threads, D=64, batches=2):
    "Images a second (and a second of processor time, which company on the machine does not change as much) in the search: 4,608 rotations × 196 shifts, then refinement; batch by batch, by turns."
    ps = images(folder, map, apix, 500, .1, 0, D)
    who = {'ours: level 3, then downhill': ours(ps, 3, (10., 15., 20., D//2 - 1.)), 'ours: four levels': ours(ps, 6, ())}
    rates, found = {}, {}
    seen = Peer(peer).parse(Path(ps.md.path).parent) if peer else None
    others = {name: Other(peer, words, seen, Path(folder)/words[0], threads) for name, words in OTHERS.items()} if peer else {}
    for n, part in enumerate(torch.arange(len(ps)).split(32)[:batches + 1]):
        for name, search in who.items():
            start, begun = time.perf_counter(), time.process_time()
            found.setdefault(name, []).append(search(part))
            rates.setdefault(name, []).append((len(part)/(time.perf_counter() - start), len(part)/(time.process_time() - begun)))
        for name, other in others.items(): rates.setdefault(name, []).append(other.rate())
    for other in others.values(): other.close()
    for name, r in rates.items():
        error = {} if name in others else dict(deg=round(float(angle_between(torch.cat([p.R for p in found[name]]), ps.pose.R[:32*(batches + 1)]).median()), 2))
        wall, cpu = np.median(r[1:], 0).round(3).tolist()          # the first warms up
        yield dict(who=name, D=D, images_s=wall, images_cpu_s=cpu, least=round(min(c for _, c in r[1:]), 3), most=round(max(c for _, c in r[1:]), 3), **error)


WHOLE = ['--zdim', 0, '--explicit-volume', '--t-extent', 8, '--checkpoint', 1, '--num-workers', 0, '--no-amp', '--no-analysis', '--seed', 0]

def beside(folder, map, apix, n, first, peer):
    "Whole runs, the same images: how far off poses are, and after how much of a processor's time."
    every, seen, out = images(folder, map, apix, n, math.inf, 0), Path(folder)/'inf_0', Path(folder)/'abinit'
    ps, begun = every[:first], time.process_time()
    try: found = abinitio(ps, seed=0); yield line(ps, found.pose, time.process_time() - begun, who='ours', agreement=round(found.agreement, 2))
    except NothingFound as e: yield dict(who='ours', failed=str(e)[:110])
    them = Peer(peer); them.parse(seen)
    (seen/'first.pkl').write_bytes(pickle.dumps(np.arange(first)))
    watch(them.command('abinit', seen/'particles.mrcs', '--ctf', seen/'ctf.pkl', '--ind', seen/'first.pkl', '-o', out, *WHOLE), out, 'pose.*.pkl', out.with_suffix('.csv'))
    yield from after_each(ps, out)

def after_each(ps, out):
    "Poses of an `abinit` of cryoDRGN's, epoch by epoch."
    for name, cpu in pd.read_csv(out.with_suffix('.csv'))[['file', 'cpu']].itertuples(index=False):
        epoch = int(name.split('.')[1])
        yield line(ps, Run.load(out, 'cpu').at(epoch).pose, cpu, who='cryodrgn abinit', epoch=epoch)


@call_parse
def main(what: str,                          # poses, refine, het, speed or beside
         map: str = '../shared/data/empiar10076/maps/vol_386.mrc', apix: float = 6.55, n: int = 5000, seeds: int = 5,
         first: int = 1000, threads: int = 2, peer: str = '', box: int = 64, data: str = '../shared/data'):
    torch.set_num_threads(threads)
    print(machine(), f'; {threads} threads')
    with tempfile.TemporaryDirectory() as tmp:
        rows = dict(poses=lambda: poses(tmp, map, apix, n, seeds), refine=lambda: refine(tmp, map, apix, n, seeds), het=lambda: het(tmp, data, n, seeds), speed=lambda: speed(tmp, map, apix, peer, threads, box), beside=lambda: beside(tmp, map, apix, n, first, peer))[what]()
        for row in rows: print(row, flush=True)
