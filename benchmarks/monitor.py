"""What watching costs: training with and without a monitor, and how soon other cells answer meanwhile.

    python benchmarks/monitor.py [--n 5000] [--epochs 6] [--repeats 3] [--seed 0]

A run of `fit` (D = 64, zdim 8, encoder, defaults) in a thread, watched and unwatched in turn, and the seconds of its epochs from the history; then a real kernel that trains, asked for
`1 + 1` fifty times. The maps and UMAPs that a monitor makes may take 3 % of the time. Ten minutes on two cores.
"""
import tempfile, time
from pathlib import Path
import numpy as np
from fastcore.script import call_parse
from jupyter_client.manager import start_new_kernel
from drgnbook import Monitor, fit, large_subunit, simulate
from sets import machine

KERNEL = "from drgnbook import *; run = fit(Particles.read({!r}), zdim=8, z='encoder', epochs=1000, out={!r}, device='cpu'); m = monitor(run)"


def seconds(ps, out, epochs, seed, watched):
    "Of all epochs of a training."
    run = fit(ps, zdim=8, z='encoder', epochs=epochs, seed=seed, out=out, device='cpu', where='thread')
    if watched:
        m = Monitor(run)
        while run.training: m.glance(); time.sleep(1)
    return run.wait().history.seconds.sum()

def answers(star, out, n=50):
    "Seconds from asking a kernel that trains to its answer."
    manager, client = start_new_kernel()
    try:
        client.execute_interactive(KERNEL.format(str(star), str(out)), timeout=300)
        took = []
        for _ in range(n):
            start = time.monotonic()
            client.execute_interactive('1 + 1', timeout=60)
            took.append(time.monotonic() - start)
            time.sleep(.2)
        return np.array(took)
    finally: client.stop_channels(); manager.shutdown_kernel(now=True)

@call_parse
def main(n: int = 5000, epochs: int = 6, repeats: int = 3, seed: int = 0):
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        ps = simulate(large_subunit(), n=n, D=64, snr=.1, seed=seed, out=tmp/'set')
        ps.cache()
        pairs = [[seconds(ps, tmp/f'run{r}{w}', epochs, seed, w) for w in (False, True)] for r in range(repeats)]
        took = answers(ps.md.path, tmp/'kernel')
    plain, watched = np.median(pairs, 0)
    print(f'{machine()}; {n:,} images of 64 px, {epochs} epochs, seed {seed}, {repeats} repeats')
    print(f'| training, s | watched, s | median ratio | of the pairs | a cell answers, median | slowest of {len(took)} |\n|---|---|---|---|---|---|')
    print(f'| {plain:.1f} | {watched:.1f} | {np.median([b/a for a, b in pairs]):.3f} | {", ".join(f"{b/a:.3f}" for a, b in pairs)} | {1e3*np.median(took):.0f} ms | {1e3*took.max():.0f} ms |')
