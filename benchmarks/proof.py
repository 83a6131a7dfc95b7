"""Every score of `validate`, of drgnbook and of cryoDRGN, on the same images, with as many epochs.

    python benchmarks/proof.py linear,circle --n 1000 --epochs 5 [--D 64] [--peer .peer/bin/python] [--data ../shared/data] [--out bench_proof]

The sets are those of `sets.SETS`: linear, plane, circle and ten after the first cryoDRGN paper (in full: --n 50000), igg and ribosembly after CryoBench (--n 100000 --D 128). cryoDRGN's `train_vae` and drgnbook's `fit` run with
their defaults but for the width (256×3, zdim 8) and the number of epochs. Each set has its folder in --out; what is done is kept, and a call goes on from there. cryoDRGN needs some 30 to 50 ms an image and epoch at D = 64 on one core, its
hundred maps two minutes.
`--who found`: ours from pictures alone; poses are searched for, put into the frame of the truth (which turn and which hand, no picture says), and the rest is as with given poses;
each map is laid onto its own truth (one turn and one move of the hundred particles nearest to its z), for when half of a particle moves, no picture says which half stays.
"""
import shutil
from pathlib import Path
import numpy as np, pandas as pd, torch
from fastcore.script import call_parse
from drgnbook import Particles, Run, Truth, Volume, abinitio, align_poses, pose_error, read_truth, reconstruct, score, validate
from peer import ours
from quality import watch
from sets import SETS, Peer, machine

ZDIM, WIDTH = 8, 256


def make(name, folder, data, n, D, seed):
    "The set, in the words of both programs, and its truth."
    source, ps = SETS[name].simulate(folder, data, n, D, seed)
    return ps, Truth(read_truth(folder), ps.D, ps.apix, folder, source, ps.pose, **SETS[name].truth)


def search(folder, out, seed):
    "The particles with poses that were found in their pictures."
    ps = Particles.read(folder/'particles.star')
    found = abinitio(ps, seed=seed)
    pose, mirrored = align_poses(ps.pose, found.pose)
    deg, far = pose_error(ps.pose, pose)
    print(f'{found!r}; mirrored {mirrored}; median error {deg.median():.2f}°, {far.median()/ps.apix:.2f} px; {(deg > 10).float().mean():.1%} are wrong by more than 10°', flush=True)
    ps.with_poses(pose).write(out)


def train(who, root, peer, epochs, seed=0):
    "One program on one set, if it has not been done."
    folder, out, times = root/'set', root/who, root/f'{who}.csv'
    if times.exists():
        have = len(pd.read_csv(times))
        if have != epochs: raise SystemExit(f'{out} has {have} epochs, {epochs} are asked for: choose another --out, or remove {times}')
        return
    for old in (out, root/f'{who}.cache'): shutil.rmtree(old, ignore_errors=True)
    fit = lambda star: ours('fit', star, '--out', out, '--zdim', ZDIM, '--width', WIDTH, '--epochs', epochs, '--device', 'cpu')
    if who == 'peer': return watch(peer.train(folder, out, epochs, ZDIM, WIDTH), out, 'z.*.pkl', times)
    if who == 'found' and not (folder/'found.star').exists(): search(folder, folder/'found.star', seed)
    watch(dict(ours=fit(folder/'particles.star'), encoder=[*fit(folder/'particles.star'), '--z', 'encoder'], found=fit(folder/'found.star'))[who], out, 'checkpoints/????/state.json', times)


def turned(v, G, x):
    "A map turned: at each place what was at `G` times the place plus `x` (Å). On a grid twice as fine on the way, so that nothing is lost."
    from scipy.ndimage import affine_transform
    from scipy.signal import resample
    fine, M = v.data.numpy(), G.numpy()[::-1, ::-1]          # of (z, y, x)
    for axis in range(3): fine = resample(fine, 2*v.D, axis=axis)
    middle = np.full(3, v.D//2)
    return Volume(torch.from_numpy(affine_transform(fine, 2*M, 2*(middle + M @ (x.numpy()[::-1]/v.apix - middle)), (v.D,)*3)), v.apix)


def frame(a, b):
    "The turn and the move (Å) that take the frame of poses `b` to that of `a`."
    c, _ = align_poses(a, b)
    return (b.R.mT @ c.R).median(0).values, torch.linalg.lstsq(c.R[:, :2].flatten(0, 1), (b.t - c.t).flatten()).solution


def settled(run, true, near=100):
    "From z to maps, each in the frame of the truth: where half of the mass moves, poses that were found may choose at every z anew which half stays."
    from scipy.spatial import cKDTree
    tree = cKDTree(run.z)
    def maps(zs):
        for z, v in zip(zs, run.volumes(zs)):
            i = torch.from_numpy(tree.query(z, near)[1])
            yield turned(v, *frame(true[i], run.pose[i]))
    return lambda zs: list(maps(zs))


def grade(who, root, peer, epochs, ps, truth, images, evidence):
    "The scores of one program, or of the map of all particles."
    kept = root/f'{who}.scores.csv'
    if kept.exists(): return pd.read_csv(kept, index_col=0)
    if who == 'consensus':
        mean = reconstruct(ps).volume
        table = score(np.zeros((len(ps), 0)), lambda z: [mean]*len(z), truth, images)
    elif who == 'peer':
        z = peer.latents(root/who/f'z.{epochs}.pkl')
        table = score(z, lambda z: peer.volumes(root/who, f'weights.{epochs}.pkl', z, root/'maps', ps.apix), truth, images)
        shutil.rmtree(root/'maps')
    elif who == 'found':
        run = Run.load(root/who, 'cpu')
        table = score(run.z, settled(run, truth.pose), truth, images, pose=run.pose)
    else: table = validate(Run.load(root/who, 'cpu'), truth, images=images, evidence=evidence)
    table.to_csv(kept)
    return table


NONE = pd.DataFrame(dict(found=[]))

def side_by_side(tables):
    "Markdown: a row a score; decoder maps, evidence maps, cryoDRGN's, those of no heterogeneity at all; who is ahead."
    first = next(tables[w] for w in ('ours', 'found') if w in tables)
    columns = {'drgnbook': tables.get('ours', NONE).found, 'its evidence maps': tables.get('ours', NONE).get('evidence'), "drgnbook, z='encoder'": tables.get('encoder', NONE).found, 'drgnbook, poses found': tables.get('found', NONE).found,
               'cryodrgn': tables.get('peer', NONE).found, 'consensus': tables['consensus'].found, 'best': first.best}
    t = pd.DataFrame({k: v for k, v in columns.items() if v is not None and len(v)})
    t = t.loc[[*first.index]]
    lower = (t.best == 0) | t.index.str.startswith('px')
    if 'cryodrgn' in t:
        mine = t[[c for c in t if 'drgnbook' in c or 'evidence' in c]]
        by = np.where(lower, t.cryodrgn.round(3) - mine.min(axis=1).round(3), mine.max(axis=1).round(3) - t.cryodrgn.round(3)).round(3)          # as the table shows them
        t['ahead'] = np.select([np.isnan(by), by > 0, by == 0], ['', 'drgnbook', 'both'], '**not drgnbook**')
    cell = lambda x: x if isinstance(x, str) else '' if pd.isna(x) else f'{x:.3f}'
    return ['| | ' + ' | '.join(t) + ' |', '|---'*(t.shape[1] + 1) + '|', *(f'| {name} | ' + ' | '.join(map(cell, row)) + ' |' for name, row in zip(t.index, t.to_numpy(dtype=object)))]


@call_parse
def main(on: str,                               # sets, with commas between, or all
         n: int = 2000, D: int = 64,            # images, px
         epochs: int = 10,                      # of each program
         images: int = 100,                     # whose own maps are scored
         evidence: int = 10,                    # of them, with maps from particles as well
         who: str = 'peer,ours',                # or encoder, found, too; peer alone: its part ahead, without a table
         peer: str = '.peer/bin/python',        # of the environment that peer_env.sh made
         data: str = '../shared/data',          # the shared folder
         out: str = 'bench_proof',              # where sets and runs are kept
         seed: int = 0):
    "Simulate, train, grade; the tables come last."
    names, lines = list(SETS) if on == 'all' else on.split(','), []
    unknown = [x for x in names if x not in SETS]
    if unknown: raise SystemExit(f'no set {", ".join(unknown)}: there are {", ".join(SETS)}')
    p = Peer(peer)
    for name in names:
        root = Path(out).absolute()/name
        ps, truth = make(name, root/'set', data, n, D, seed)
        if 'peer' in who.split(','): p.parse(root/'set')
        for w in who.split(','): train(w, root, p, epochs, seed)
        tables = {w: grade(w, root, p, epochs, ps, truth, images, evidence) for w in (*who.split(','), 'consensus')}
        if not {'ours', 'found'} & set(tables): continue           # --who peer: its part ahead, a later call has the table
        spent = ', '.join(f'{w} {pd.read_csv(root/f"{w}.csv").cpu.iloc[-1]:.0f} s' for w in who.split(','))
        told = ['', f'### {name}: {n:,} images of {D} px, SNR {SETS[name].noise(D)}, {epochs} epochs (processor time: {spent})', '', *side_by_side(tables), '', SETS[name].published + '.']
        print('\n'.join(told), flush=True)
        lines += told
    print('\n'.join(['', f'{machine()}; {p.version()}; 1 thread, seed {seed}', *lines]))
