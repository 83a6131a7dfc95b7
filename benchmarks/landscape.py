"""A million particles: their neighbours, paths through them, and UMAP of as many as the protocol's first set has, on this machine. z is made up: 20 states in eight dimensions, or one round cloud, the worst case.

    python benchmarks/landscape.py [--what knn|paths|umap|all]

Seconds on the wall, and of all processors together, which other programs on the machine change less. Neighbours are searched on all cores, whatever OMP_NUM_THREADS says.
"""
import resource, time
import numpy as np
from fastcore.script import call_parse
from drgnbook.landscape import knn, umap
from drgnbook.paths import density_path, graph_path
from sets import machine

rng = np.random.default_rng(0)


def states(N):
    "Twenty states with widths that fall from axis to axis, as a subspace's do."
    middle = rng.normal(size=(20, 8))*np.linspace(2, .6, 8)
    return middle[rng.integers(20, size=N)] + rng.normal(size=(N, 8))*np.linspace(1, .4, 8)

def timed(what, f, *args, **kw):
    start, spent = time.perf_counter(), time.process_time()
    got = f(*args, **kw)
    print(f'| {what} | {time.perf_counter() - start:.0f} s | {time.process_time() - spent:.0f} s | {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6:.1f} GB |', flush=True)
    return got


def neighbours():
    timed('15 nearest of 1,000,000 × 8, twenty states', knn, states(1_000_000))
    timed('15 nearest of 1,000,000 × 8, one round cloud', knn, rng.normal(size=(1_000_000, 8)))

def paths():
    "From one particle to another, the search for neighbours included."
    for N in (100_000, 1_000_000):
        z = states(N)
        for path in (graph_path, density_path): timed(f'{path.__name__} through {N:,} × 8, twenty states', path, z, [0, 1], mean=None)

def pictures():
    umap(states(2000), seed=None); umap(states(2000))           # compiled once
    z = states(131_899)
    timed('UMAP of 131,899 × 8, seed=None', umap, z, seed=None)
    timed('UMAP of 131,899 × 8, seed=0', umap, z)


PARTS = dict(knn=neighbours, paths=paths, umap=pictures)

@call_parse
def main(what: str = 'all'):      # knn, paths, umap or all
    "Time it, and print a table."
    if what != 'all' and what not in PARTS: raise SystemExit(f'what to measure is {", ".join(PARTS)} or all, found {what!r}')
    print(f'{machine()}\n\n| | seconds | of all processors | peak memory so far |\n|---|---|---|---|', flush=True)
    for name in PARTS if what == 'all' else [what]: PARTS[name]()
