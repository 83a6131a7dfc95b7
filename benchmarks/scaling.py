"""What each stage takes at three sizes, each in a process and on a thread of its own → benchmarks/scaling.csv, which nbs/explanations/scaling.ipynb compares with formulas: processor seconds, which a busy machine
hardly changes (waiting for the disk is not in them), peak memory, bytes on disk, and bytes sent between two workers. Four minutes, ten on a busy machine; `python benchmarks/scaling.py knn umap` measures these alone again."""
import os
os.environ |= dict(OMP_NUM_THREADS='1', NUMBA_NUM_THREADS='1', TQDM_DISABLE='1')            # before torch, and in every worker
import contextlib, sys, tempfile, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
import numpy as np, pandas as pd, torch
from torch import distributed as dist
from drgnbook.cores import affine
from drgnbook.data import load_data
from drgnbook.decoder import FourierMLP
from drgnbook.io import read_metadata, write_metadata
from drgnbook.landscape import knn, umap
from drgnbook.latent import Encoder
from drgnbook.metadata import Metadata
from drgnbook.particles import Particles
from drgnbook.simulate import simulate
from drgnbook.stacks import write_stack
from drgnbook.subspace import subspace
from drgnbook.fit import fit

SIZES = dict(table=[dict(N=N) for N in (25_000, 50_000, 100_000)],
             downsample=[dict(N=4000, D=64), dict(N=2000, D=128), dict(N=1000, D=256)],            # to half the box
             cache=[dict(N=8000, D=64), dict(N=3000, D=128), dict(N=1000, D=256)],
             subspace=[dict(N=N, D=64, zdim=8) for N in (1000, 2000, 4000)],
             train=[dict(N=3000, D=64, width=256), dict(N=1000, D=128, width=256), dict(N=400, D=64, width=1024)],
             encode=[dict(N=8000, D=64, width=256), dict(N=3000, D=128, width=256), dict(N=1000, D=256, width=256)],
             volumes=[dict(q=8, D=32, width=256), dict(q=2, D=64, width=256), dict(q=1, D=64, width=512)],
             knn=[dict(N=N, zdim=8) for N in (50_000, 100_000, 200_000)],
             umap=[dict(N=N, zdim=8) for N in (11_000, 18_000, 30_000)],
             reduce=[dict(D=128, width=w) for w in (256, 512, 1024)],
             matmul=[dict(width=w) for w in (256, 512, 1024)])


def table(N):
    "N particles with everything that a refinement knows."
    rng = np.random.default_rng(0)
    number = {c: rng.normal(size=N) for c in ('rx', 'ry', 'rz', 'tx', 'ty')} | {c: rng.uniform(8e3, 3e4, N) for c in ('dfu', 'dfv')}
    return pd.DataFrame(dict(stack='noise.mrcs', index=np.arange(N), apix=2., dfang=10., kV=300., cs=2.7, w=.1, **number))

def prepare(folder, stage, N=0, D=0, zdim=8, width=256, q=1):
    "What a stage starts from, on disk: particles of pure noise, or of something to be found."
    if stage == 'subspace': return simulate(n=N, D=D, snr=1., out=folder/'p')
    if D and N: write_stack(folder/'noise.mrcs', [np.random.default_rng(0).normal(size=(N, D, D))], N, D, 2.)
    if N: write_metadata(folder/'p.star', Metadata(table(N), None, folder/'p.star'), D)

def work(folder, stage, N=0, D=0, zdim=8, width=256, q=1):
    "One stage, made ready: a function to be timed."
    rng = np.random.default_rng(0)
    z, path = rng.normal(size=(N or q, zdim)).astype('f4'), next(folder.rglob('*.star'), None)
    if stage == 'table': return lambda: read_metadata(path)
    if stage == 'knn': return lambda: knn(z)
    if stage == 'umap': umap(z[:2000]); return lambda: umap(z)
    if stage == 'volumes': field = FourierMLP(D, 2., zdim, width); return lambda: field.volumes(torch.from_numpy(z))
    if stage == 'matmul': a, b = torch.randn(4096, width), torch.randn(width, width); return lambda: [affine(a, b).shape for _ in range(100)]          # none is kept
    ps = Particles.read(path)
    if stage == 'downsample': return lambda: ps.downsample(D//2)
    if stage == 'cache': return ps.cache
    if stage == 'train': run = fit(ps, zdim, z, width=width, epochs=1, sample=.1, out=folder/'run', device='cpu'); return lambda: run.resume(epochs=2)
    data, pose = load_data(ps), ps.pose
    if stage == 'subspace': return lambda: subspace(data, pose, zdim)
    m = data.lattice.upto(4*ps.apix*2)
    encoder = Encoder(m, zdim, width).requires_grad_(False)
    return lambda: [encoder.posterior(data.lists(i, pairs[:, :m])) for i, pairs in data.stream(torch.arange(N).split(1024), data.window(1024))]          # as `encode` does

def measure(folder, stage, **size):
    "Processor seconds, peak memory above the start, bytes written."
    folder = Path(folder)
    do, before = work(folder, stage, **size), set(folder.rglob('*'))
    Path('/proc/self/clear_refs').write_text('5')            # forget earlier peaks
    base = memory('VmRSS')
    start = time.process_time()
    got = do()
    seconds, peak = time.process_time() - start, memory('VmHWM')
    made = got.checkpoints[-1].rglob('*') if stage == 'train' else set(folder.rglob('*')) - before
    return dict(seconds=seconds, memory=peak - base, disk=sum(p.stat().st_size for p in made if p.is_file() and p.suffix != '.json'))

def memory(which): return next(int(line.split()[1])*1024 for line in Path('/proc/self/status').read_text().splitlines() if line.startswith(which))

def looped(): return next(int(line.split()[9]) for line in Path('/proc/net/dev').read_text().splitlines() if line.strip().startswith('lo:'))

def reduce(rank, folder, D, width):
    "Two workers on this machine add up the gradients of a field twenty times: bytes that both send at each."
    dist.init_process_group('gloo', store=dist.FileStore(f'{folder}/meet', 2), rank=rank, world_size=2)
    flat = torch.zeros(sum(p.numel() for p in FourierMLP(D, 2., 8, width).parameters()))
    dist.all_reduce(flat)
    before = looped()
    for _ in range(20): dist.all_reduce(flat)
    dist.barrier()
    sent = (looped() - before)//20
    dist.destroy_process_group()
    return dict(network=sent)


if __name__ == '__main__':
    out, rows = Path(__file__).with_suffix('.csv'), []
    for stage in sys.argv[1:] or SIZES:
        for size in SIZES[stage]:
            with tempfile.TemporaryDirectory() as d, ProcessPoolExecutor(2, get_context('spawn')) as pool, contextlib.redirect_stdout(None):
                prepare(Path(d), stage, **size)
                jobs = [pool.submit(reduce, r, d, **size) for r in (0, 1)] if stage == 'reduce' else [pool.submit(measure, d, stage, **size)]
                rows.append(dict(stage=stage, **size, **jobs[0].result()))
            print(rows[-1], flush=True)
    if sys.argv[1:] and out.exists(): rows = [*pd.read_csv(out).query('stage not in @sys.argv').to_dict('records'), *rows]
    whole = pd.DataFrame(rows, columns='stage N D zdim width q seconds memory disk network'.split()).sort_values('stage', key=lambda s: s.map(list(SIZES).index), kind='stable')
    whole.astype({c: 'Int64' for c in ('N', 'D', 'zdim', 'width', 'q', 'memory', 'disk', 'network')}).to_csv(out, index=False, float_format='%.5g')
