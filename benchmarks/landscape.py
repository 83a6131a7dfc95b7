"""A million particles' neighbours, and UMAP of as many as the protocol's first set has: seconds on this machine. z is made up: 20 states in eight dimensions, or one round cloud, the worst case."""
import time
import numpy as np
from drgnbook.landscape import knn, umap

rng = np.random.default_rng(0)


def states(N):
    "Twenty states with widths that fall from axis to axis, as a subspace's do."
    middle = rng.normal(size=(20, 8))*np.linspace(2, .6, 8)
    return middle[rng.integers(20, size=N)] + rng.normal(size=(N, 8))*np.linspace(1, .4, 8)

def timed(what, f, *args, **kw):
    start = time.perf_counter()
    got = f(*args, **kw)
    print(f'| {what} | {time.perf_counter() - start:.0f} s |', flush=True)
    return got


if __name__ == '__main__':
    umap(states(2000), seed=None); umap(states(2000))           # compiled once
    timed('15 nearest of 1,000,000 × 8, twenty states', knn, states(1_000_000))
    timed('15 nearest of 1,000,000 × 8, one round cloud', knn, rng.normal(size=(1_000_000, 8)))
    z = states(131_899)
    timed('UMAP of 131,899 × 8, seed=None', umap, z, seed=None)
    timed('UMAP of 131,899 × 8, seed=0', umap, z)
