"""drgnbook beside the installed cryoDRGN on this machine's CPU, and both beside what its matrix products allow.

    sh benchmarks/peer_env.sh .peer
    python benchmarks/peer.py steps|run|volumes|previews|downsample|foreign|all [--peer .peer/bin/python] [--threads 2] [--repeats 3]

Both are run as programs on the same files, in turn, with the same number of threads; a figure is the median of its repeats.
The tables (Markdown) come last. On two cores: steps 15 min, run 15, volumes 20, previews 5, downsample 2, foreign 1.
"""
import re, statistics, subprocess, sys, tempfile, time
from dataclasses import dataclass
from pathlib import Path
import numpy as np, torch
from fastcore.script import call_parse
from drgnbook import CRYODRGN, Run
from gpu import flops
from sets import Peer, child, env, linear_set, machine

ZDIM = 8
STEPS = [(64, 256, 256), (128, 256, 48), (64, 1024, 48)]           # box, width, images: an epoch takes the peer some 15 s


def peer_points(D):
    "Frequencies that the peer evaluates for an image: half of those up to D/2 (ours go to D/2 - 1)."
    ax = np.arange(D + 1) - D//2
    return (int((ax[:, None]**2 + ax**2 <= (D//2)**2).sum()) + 1)//2


FORMULA = ('GFLOP of an image: n (4·3D·W + 6 (3W² + 2W)) + 4·2n·W + 6 (3W² + 2·zdim·W) + 6·zdim·W, that is two operations for each product of a layer, forward and in both gradients '
           'but the first layer\'s input, decoder and encoder; n is half of the disc\'s frequencies.')

CEILING = '''
import statistics, sys, time, torch
from drgnbook import affine
width, rows, seconds = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
x, g, w = torch.randn(rows, width), torch.randn(rows, width), torch.randn(width, width)
def rate(*three):
    took, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end or len(took) < 6: start = time.perf_counter(); [f() for f in three]; took.append(time.perf_counter() - start)
    return 6*rows*width*width/statistics.median(took[3:])/1e9
y, dx, dw = torch.empty(rows, width), torch.empty(rows, width), torch.empty(width, width)
print(rate(lambda: torch.mm(x, w.T, out=y), lambda: torch.mm(g, w, out=dx), lambda: torch.mm(g.T, x, out=dw)), rate(lambda: affine(x, w), lambda: affine(g, w.T), lambda: affine(g.T, x.T)))
'''


def ceiling(width, threads, seconds=2.):
    "GFLOP/s of the three float32 products of a hidden layer (forward, gradients of input and weight), by torch.mm and by `affine`: each by the better of two numbers of rows; medians, as those of the steps."
    rates = lambda rows: map(float, subprocess.run([sys.executable, '-c', CEILING, str(width), str(rows), str(seconds)], env=env(threads), check=True, capture_output=True, text=True).stdout.split())
    return [max(both) for both in zip(rates(2048), rates(16384))]


def ours(*words): return [sys.executable, '-c', 'import sys; from drgnbook.cli import main; sys.exit(main())', *map(str, words)]


def flags(**options):
    "Options of `fit`, as its command line has them."
    return [w for k, v in options.items() for w in ([f'--no-{k}'] if v is False else [f'--{k}', v])]


def our_fit(folder, out, epochs, width, batch, same=True):
    "The command line of a training: the peer's mathematics (all coefficients, an encoder of all of them), or the defaults."
    o = dict(zdim=ZDIM, epochs=epochs, width=width, precision='float32', device='cpu')
    return ours('fit', folder/'particles.star', '--out', out, *flags(**dict(CRYODRGN, encoder_width=width, batch_size=batch, **o) if same else o))


def our_steps(folder, out, epochs, width, batch, threads):
    "Seconds of the epochs after the first, and peak memory, GB."
    import pandas as pd
    used = child(our_fit(folder, out, epochs, width, batch), threads)
    return list(pd.read_csv(out/'history.csv').seconds[1:]), used.memory


def peer_steps(peer, folder, out, epochs, width, batch, threads):
    used = child(peer.train(folder, out, epochs, ZDIM, width, batch), threads)
    clock = re.findall(r'Finished in (\d+):(\d+):([\d.]+)$', used.output, re.M)
    seconds = [3600*int(h) + 60*int(m) + float(s) for h, m, s in clock]
    if len(seconds) != epochs: raise RuntimeError(f'{epochs} epochs were asked for, the log of cryodrgn has the times of {len(seconds)}:\n{used.output[-2000:]}')
    return seconds[1:], used.memory


@dataclass
class Bench:
    peer: Peer
    threads: int
    repeats: int
    batch: int
    seed: int
    tmp: Path

    def set(self, n, D):
        folder = self.tmp/f'set{n}_{D}'
        linear_set(folder, n, D, seed=self.seed)
        return self.peer.parse(folder)

    def fresh(self, name): return Path(tempfile.mkdtemp(prefix=name, dir=self.tmp))/'run'

    def turns(self, *what, repeats=None):
        "Call each of the functions, in turn, as often as asked; a list of results for each."
        return list(zip(*[[f() for f in what] for _ in range(repeats or self.repeats)]))


med = statistics.median


def steps(b: Bench, epochs=3):
    "One training step of `train_vae` and of `fit` with its mathematics."
    rows = []
    for D, width, n in STEPS:
        folder = b.set(n, D)
        us, them, tops = b.turns(lambda: our_steps(folder, b.fresh('us'), epochs, width, b.batch, b.threads),
                                lambda: peer_steps(b.peer, folder, b.fresh('them'), epochs, width, b.batch, b.threads), lambda: ceiling(width, b.threads))
        t, p = (med([s for seconds, _ in runs for s in seconds])/n for runs in (us, them))
        G, Gp, (mm, best) = flops(D, width)/1e9, flops(D, width, n=peer_points(D))/1e9, map(med, zip(*tops))
        rows.append(f'| D = {D}, {width}×3 | {1e3*t:.1f} ms | {1e3*p:.1f} ms | {p/t:.2f} | {G:.2f} | {G/t:.0f} | {Gp/p:.0f} | {mm:.0f} | {G/t/mm:.0%} | {Gp/p/mm:.0%} | {best:.0f} | {G/t/best:.0%} | {med([m for _, m in us]):.2f} | {med([m for _, m in them]):.2f} |')
        print(rows[-1], flush=True)
    return [f'### A training step, time of an image (batches of {b.batch}, float32)', '', FORMULA, '',
            '| | drgnbook | cryodrgn | ratio | GFLOP | GFLOP/s | cryodrgn\'s | torch.mm | share | cryodrgn\'s | affine | share | peak GB | cryodrgn\'s |', '|---'*14 + '|', *rows]


def whole(b: Bench, D, n, epochs=5):
    "Rows of `run`: one set of images."
    folder = b.set(n, D)
    us, them, defaults = b.turns(lambda: child(our_fit(folder, b.fresh('us'), epochs, 256, b.batch), b.threads), lambda: child(b.peer.train(folder, b.fresh('them'), epochs, ZDIM, 256, b.batch), b.threads),
                                 lambda: child(our_fit(folder, b.fresh('own'), epochs, 256, b.batch, same=False), b.threads))
    p = med([x.seconds for x in them])
    row = lambda name, xs: f'| {n} images, D = {D}: {name} | {med([x.seconds for x in xs]):.1f} s | {p/med([x.seconds for x in xs]):.2f} | {med([x.memory for x in xs]):.2f} |'
    return [row('cryodrgn train_vae', them), row('drgnbook fit, the same mathematics', us), row('drgnbook fit, defaults (z from the subspace, a tenth of the coefficients)', defaults)]


def run(b: Bench):
    "A whole run with everything in it, as the clock on the wall sees it."
    return ['### A whole run: 5 epochs, 256×3, from start to end of the program', '', '| | seconds | ratio | peak GB |', '|---|---|---|---|', *whole(b, 64, 500), *whole(b, 128, 200)]


def seconds_a_map(call, n):
    "From n maps and from one, so that the start of the program does not count; and peak memory."
    one, many = call(1), call(n)
    return (many.seconds - one.seconds)/(n - 1), many.memory


def volumes(b: Bench, D=128, widths=((256, 20), (1024, 2))):
    "Maps at points of latent space; `widths`: of the decoder, and how many maps."
    rows, folder = [], b.set(16, D)
    for width, maps in widths:
        us, them, z = b.fresh('us'), b.fresh('them'), np.random.default_rng(b.seed).normal(size=(160, ZDIM))
        child(our_fit(folder, us, 1, width, b.batch), b.threads); child(b.peer.train(folder, them, 1, ZDIM, width, b.batch), b.threads)
        def our(D, q):
            np.save(b.tmp/'z.npy', z[:q])
            return child(ours('volumes', us, '--z', b.tmp/'z.npy', '--D', D, '--out', b.fresh('maps')), b.threads)
        def peers(q):
            np.savetxt(b.tmp/'z.txt', z[:q])
            return child(b.peer.command('eval_vol', them/'weights.pkl', '-c', them/'config.yaml', '--zfile', b.tmp/'z.txt', '-o', b.fresh('maps')), b.threads)
        (t, m), (p, mp) = (map(med, zip(*runs)) for runs in b.turns(lambda: seconds_a_map(lambda q: our(D, q), maps), lambda: seconds_a_map(peers, maps)))
        rows.append(f'| {width}×3, {maps} maps | {t:.2f} s | {p:.2f} s | {p/t:.2f} | {m:.2f} | {mp:.2f} |')
        print(rows[-1], flush=True)
    return [f'### A map at {D}³', '', '| | drgnbook | cryodrgn eval_vol | ratio | peak GB | cryodrgn\'s |', '|---|---|---|---|---|---|', *rows]


PREVIEWS = '''
import sys, time, numpy as np
from drgnbook import Run
run, D, q, times = Run.load(sys.argv[1], 'cpu'), int(sys.argv[2]), int(sys.argv[3]), []
z = np.random.default_rng(0).normal(size=(q, run.options['zdim']))
for turn in range(7):
    for box in (D, D//2): start = time.perf_counter(); run.volumes(z, box); times.append((time.perf_counter() - start)/q)
whole, half = np.reshape(times[2:], (-1, 2)).T          # the first turn warms up
print('TIMES', np.median(whole), np.median(half), np.median(whole/half), (whole/half).min(), (whole/half).max())
'''

def previews(b: Bench, D=128, widths=((256, 8), (1024, 1))):
    "A map, and one of half the box: in one process, in turn."
    rows, folder = [], b.set(16, D)
    for width, q in widths:
        us = b.fresh('us')
        child(our_fit(folder, us, 1, width, b.batch), b.threads)
        said = child([sys.executable, '-c', PREVIEWS, us, D, q], b.threads).output
        t, s, *ratios = map(float, re.search(r'^TIMES (.*)', said, re.M)[1].split())
        rows.append('| {}×3, {} at a time | {:.2f} s | {:.3f} s | {:.1f} ({:.1f} to {:.1f}) |'.format(width, q, t, s, *ratios))
        print(rows[-1], flush=True)
    return [f'### A preview of {D//2}³, beside the whole map of {D}³ (medians of six turns)', '', f'| | {D}³ | {D//2}³ | sooner |', '|---|---|---|---|', *rows]


SHRINK = 'import sys; from drgnbook import Particles; Particles.read(sys.argv[1], apix=1.).downsample(int(sys.argv[2]), out=sys.argv[3])'


def downsample(b: Bench, n=2000, D=256, small=128):
    "A stack made smaller, read and written."
    import mrcfile
    stack, gen = b.tmp/'large.mrcs', torch.Generator().manual_seed(b.seed)
    with mrcfile.new_mmap(stack, (n, D, D), 2, overwrite=True) as m:
        m.set_image_stack(); m.voxel_size = 1.
        for s in range(0, n, 200): m.data[s:s+200] = torch.randn(min(200, n - s), D, D, generator=gen).numpy()
    new = lambda name: b.fresh(name).with_suffix('.mrcs')
    us, them = b.turns(lambda: child([sys.executable, '-c', SHRINK, stack, small, new('us')], b.threads), lambda: child(b.peer.command('downsample', stack, '-D', small, '-o', new('them'), '--max-threads', b.threads), b.threads))
    a, c = (mrcfile.read(next(b.tmp.glob(f'{name}*/*.mrcs'))) for name in ('us', 'them'))
    r = np.corrcoef(a.ravel(), c.ravel())[0, 1]
    p, t = (med([x.seconds for x in xs]) for xs in (them, us))
    return [f'### {n:,} images from {D} to {small} px, from start to end of the program', '', '| | seconds | ratio | peak GB |', '|---|---|---|---|',
            f'| cryodrgn downsample | {p:.1f} s | | {med([x.memory for x in them]):.2f} |', f'| drgnbook | {t:.1f} s | {p/t:.2f} | {med([x.memory for x in us]):.2f} |', '', f'Correlation of the two results: {r:.5f}.']


def foreign(b: Bench, D=64, maps=3):
    "Maps of a work directory of cryodrgn: as `Run.load` opens it, beside its own `eval_vol`."
    folder, out = b.set(16, D), b.fresh('them')
    child(b.peer.train(folder, out, 1, ZDIM, 256, b.batch), b.threads)
    run = Run.load(out, 'cpu')
    z = run.z[:maps]
    theirs = b.peer.volumes(out, 'weights.pkl', z, b.fresh('maps'), run.config['apix'], b.threads)
    inside = lambda v: v.filter(lambda k: ((k > 0) & (k <= D/2 - 1)).float()).data.ravel()
    def row(i, v, w):
        f, x, y = v.fsc(w), inside(v), inside(w)
        return f'| {i} | {f[1:-1].min():.6f} | {f[-1]:.3f} | {np.corrcoef(x, y)[0, 1]:.7f} | {x @ y/(x @ x):.6f} | {(x - y).abs().max()/y.std():.1e} |'
    return [f'### Maps of a cryodrgn run at {D}³, opened by `Run.load`, beside `eval_vol` (same z, same weights)', '', f'| z of particle | FSC, lowest of shells 1 to {D//2 - 2} | at shell {D//2 - 1}, whose corner we leave out | correlation up to there | scale | largest difference, deviations |', '|---'*6 + '|',
            *(row(i, v, w) for i, (v, w) in enumerate(zip(run.volumes(z), theirs, strict=True)))]


TABLES = dict(steps=steps, run=run, volumes=volumes, previews=previews, downsample=downsample, foreign=foreign)


@call_parse
def main(what: str,                             # steps, run, volumes, previews, downsample, foreign or all
         peer: str = '.peer/bin/python',        # of the environment that peer_env.sh made
         threads: int = 2,
         repeats: int = 3,
         batch: int = 16,                       # images a step; cryodrgn 4.3.1's default
         seed: int = 0,
         tmp: str = ''):                        # scratch folder, 2 GB; the system's if not given
    "Time both, print the tables last."
    if what != 'all' and what not in TABLES: raise SystemExit(f'what to measure is {", ".join(TABLES)} or all, found {what!r}')
    tables, head = [], machine()
    with tempfile.TemporaryDirectory(dir=tmp or None) as folder:
        b = Bench(Peer(peer), threads, repeats, batch, seed, Path(folder))
        about = f'{head}; {b.peer.version()}; {threads} threads, seed {seed}, median of {repeats} interleaved runs'
        print(about, flush=True)
        for name in TABLES if what == 'all' else [what]:
            start = time.time()
            tables += [*TABLES[name](b), '']
            print(f'{name}: {time.time() - start:.0f} s', flush=True)
    print('\n' + '\n'.join([about, '', *tables]))
