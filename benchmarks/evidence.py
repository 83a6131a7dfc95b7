"""`run.evidence(z)` at 20,000 images of 64 px: seconds of the first call and of later ones.

    python benchmarks/evidence.py [--n 20000] [--threads 2] [--folder FOLDER]

The images are of the bending subunit, z is the coordinate that it was simulated at, and the decoder is trained no longer than it takes to have one: it is only drawn once a call.
Before the first call the process has read no image; the files are in the system's cache, as they have just been written. Processors' time is that of all threads together, and is what counts on a machine that others use.
"""
import sys, tempfile
from pathlib import Path
from fastcore.script import call_parse
from sets import child, linear_set, machine

FIT = '''
import sys
from drgnbook import Particles, fit, read_truth
ps = Particles.read(sys.argv[1] + '/particles.star')
fit(ps, z=read_truth(sys.argv[1]).coord.to_numpy('f4')[:, None], zdim=1, epochs=1, decoder='field', noise=False, sample=.01, batch_size=64, out=sys.argv[2], device='cpu', where='here')
'''

TIMES = '''
import sys, time
import numpy as np
from drgnbook import Run
import drgnbook.evidence
run = Run.load(sys.argv[1], 'cpu')
for name, z in zip(('the first', *['a later one']*4), np.quantile(run.z, [.5, .1, .3, .7, .9], axis=0)):
    start, spent = time.perf_counter(), time.process_time()
    e = run.evidence(z)
    print(f'| {name}, z = {z[0]:.1f}° | {time.perf_counter() - start:.2f} s | {time.process_time() - spent:.2f} s | {max(n for n, *_ in e.tried):,} | {e.n:,.0f} | {e.resolution:.3g} Å |')
'''


@call_parse
def main(n: int = 20_000,              # images
         D: int = 64,
         threads: int = 2,
         folder: str = ''):            # kept if given, and taken up again
    "Simulate, train for a moment, and time five points."
    head = machine()
    with tempfile.TemporaryDirectory() as tmp:
        place = Path(folder or tmp)
        if not (place/'set').exists(): linear_set(place/'set', n, D)
        if not (place/'run').exists(): child([sys.executable, '-c', FIT, place/'set', place/'run'], threads)
        rows = child([sys.executable, '-c', TIMES, place/'run'], threads)
    print(f'{head}; {threads} threads, {n:,} images of {D} px\n\n| call | seconds | of all processors | images added | behind the map | FSC = 0.143 |\n|---|---|---|---|---|---|\n{rows.output}')
    print(f'Peak memory {rows.memory:.2f} GB.')
