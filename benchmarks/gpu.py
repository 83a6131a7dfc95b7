"""How much of a CUDA card does training use? Five minutes at most; a short table comes last.

    python benchmarks/gpu.py                  on any machine with a card and drgnbook
    python benchmarks/gpu.py --maps 100000    instead: seconds of `reconstruct` of so many images of 128 px (asked: 10); 12 GB of scratch
    python benchmarks/gpu.py --cpu            a small turn without one: does the script run?

The images are noise and the poses and CTFs are drawn at random, made on the spot: the rate does not depend on what is in them.
"""
import os, platform, statistics, subprocess, tempfile, time
from pathlib import Path
import numpy as np, torch
from fastcore.script import call_parse
from drgnbook import Lattice, Metadata, Particles, fit, random_rotations, reconstruct, R_to_rotvec, random_ctf, write_metadata
from drgnbook.metadata import plain_table
from drgnbook.stacks import write_stack

os.environ.setdefault('TQDM_DISABLE', '1')
ZDIM = 8
CASES = [(128, 256, 16384), (128, 1024, 16384), (256, 1024, 4096)]          # box, width, images
SMALL = [(32, 64, 64), (32, 128, 64)]


def flops(D, width, depth=3, inputs=None, encoder_width=None, n=None):
    "Of the matrix products of an image, forward and backward; none flows into frequencies or images. `inputs`: coefficients that the encoder sees."
    n = n or len(Lattice(D))
    m, e = 2*(inputs or n), encoder_width or width
    return n*(4*3*D*width + 6*(depth*width**2 + 2*width)) + 6*ZDIM*width + 4*m*e + 6*(depth*e**2 + 2*ZDIM*e)


def matrix_rate(width, dtype, device, rows=2**16, seconds=2.):
    "TFLOP/s of a hidden layer's three products: forward, gradient of the input, gradient of the weight."
    x, g, w = (torch.randn(s, width, device=device, dtype=dtype) for s in (rows, rows, width))
    wait = torch.cuda.synchronize if device == 'cuda' else lambda: None
    def turns(k):
        wait(); start = time.perf_counter()
        for _ in range(k): x @ w.T; g @ w; g.T @ x
        wait(); return time.perf_counter() - start
    turns(3)
    k = max(1, int(seconds/5/turns(1)))
    return 6*rows*width**2*k/min(turns(k) for _ in range(5))/1e12


def noise_set(folder, n, D, apix=1.3, seed=0):
    "A particle set of noise, with everything that a training reads."
    gen, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    write_stack(folder/'particles.mrcs', (torch.randn(min(512, n - s), D, D, generator=gen).numpy() for s in range(0, n, 512)), n, D, apix)
    table = random_ctf(n, rng).assign(**dict(zip(('rx', 'ry', 'rz'), R_to_rotvec(random_rotations(n, gen)).T)), tx=rng.normal(0, 3, n), ty=rng.normal(0, 3, n))
    write_metadata(folder/'particles.star', Metadata(plain_table(table.assign(stack='particles.mrcs', index=np.arange(n), apix=apix))), box=D)
    return Particles.read(folder/'particles.star')


def our_rate(ps, width, precision, batch, device, out, compiled=False, epochs=6):
    "Images/s of `fit`, every coefficient and an encoder, by the epochs after the first two; and the card's memory at its peak, GB."
    if device == 'cuda': torch.cuda.reset_peak_memory_stats()
    run = fit(ps, zdim=ZDIM, z='encoder', sample=1., width=width, precision=precision, batch_size=batch, epochs=epochs, seed=0, out=out, device=device, **(dict(compile=True) if compiled else {}))
    return len(ps)/statistics.median(run.history.seconds[2:]), torch.cuda.max_memory_allocated()/1e9 if device == 'cuda' else 0.


def map_seconds(folder, n, D, device):
    "Seconds of `reconstruct` of images that nothing has read yet: into the cache, and from there to the map."
    for name in ('few', 'all'): (folder/name).mkdir()
    reconstruct(noise_set(folder/'few', 64, D), device=device)          # the card's own start
    ps = noise_set(folder/'all', n, D)
    start = time.perf_counter()
    ps.cache(); cached = time.perf_counter()
    float(reconstruct(ps, device=device).volume.data.sum())
    return cached - start, time.perf_counter() - cached


def where(device):
    git = subprocess.run(['git', '-C', str(Path(__file__).parent), 'rev-parse', '--short', 'HEAD'], capture_output=True, text=True).stdout.strip()
    card = torch.cuda.get_device_name() if device == 'cuda' else f'CPU ({platform.processor() or platform.machine()}, {torch.get_num_threads()} threads)'
    return f'{card}; PyTorch {torch.__version__}, CUDA {torch.version.cuda}; commit {git or "unknown"}; {time.strftime("%Y-%m-%d")}; seed 0'


@call_parse
def main(cpu: bool = False,             # small, on the CPU: only to see that it runs
         maps: int = 0,                 # images to reconstruct, instead of trainings
         batch: int = 64,               # images a step
         compiled: bool = False,        # with torch.compile
         minutes: float = 5.,           # no new training begins after 0.8 of this
         tmp: str = ''):                # scratch folder, 3 GB; the system's if not given
    "Measure the card, then training on it."
    if not cpu and not torch.cuda.is_available():
        raise SystemExit('no CUDA card here (torch.cuda.is_available() is False): run this where there is one; --cpu only checks that the script works')
    device, begun, lines, rates, sets = 'cpu' if cpu else 'cuda', time.monotonic(), [], {}, {}
    if maps:
        with tempfile.TemporaryDirectory(dir=tmp or None) as folder: cache, rest = map_seconds(Path(folder), maps, 32 if cpu else 128, device)
        print(f'{where(device)}\nreconstruct of {maps:,} images: {cache + rest:.1f} s, {cache:.1f} of them into the cache, {rest:.1f} s to the map (asked: 10 in all on a card)')
        return
    types = dict(bfloat16=torch.bfloat16, float32=torch.float32)
    for width in sorted({w for _, w, _ in (SMALL if cpu else CASES)}):
        for name, t in types.items(): rates[width, name] = matrix_rate(width, t, device, *((2**12, .2) if cpu else ()))
    with tempfile.TemporaryDirectory(dir=tmp or None) as folder:
        for name in types:                                    # bf16 first: should time run out, it is what matters
            for D, width, n in SMALL if cpu else CASES:
                if time.monotonic() - begun > 48*minutes: lines.append(f'| D = {D}, {width}×3, {name} | no time left | | | | | |'); continue
                if D not in sets:
                    (at := Path(folder)/str(D)).mkdir()
                    sets[D] = noise_set(at, n, D)
                rate, memory = our_rate(sets[D], width, name, min(batch, n//4), device, Path(folder)/f'run{D}_{width}_{name}', compiled)
                G = flops(D, width, inputs=Lattice(D).upto(8.), encoder_width=256)/1e9      # of its first quarter of rings, as `fit` has it
                lines.append(f'| D = {D}, {width}×3, {name} | {rate:,.0f} | {G:.3g} | {rate*G/1e3:.4g} | {rates[width, name]:.4g} | {rate*G/1e3/rates[width, name]:.0%} | {memory:.1f} |')
                print(lines[-1], flush=True)
    print(f'\n{where(device)}; batches of {batch}, noise for images, all coefficients{", compiled" if compiled else ""}; {time.monotonic() - begun:.0f} s\n')
    print('| | images/s | GFLOP an image | TFLOP/s | of matrix products alone | share | peak GB |\n|---|---|---|---|---|---|---|')
    print('\n'.join(lines))
