"""`gmm(z)` without k beside what it did before: three starts for each k on 20,000 points. In turn, on one core.

    OMP_NUM_THREADS=1 python benchmarks/mixture.py [--n 20000] [--seeds 3]

Two clouds in eight dimensions: six states (one of 1 %), and a bent continuum with heavy tails. For each: seconds of both, their ratio, how many groups each found, and how far the groups agree with the truth (adjusted Rand index; of the continuum, with each other).
"""
import time
import numpy as np
from fastcore.script import call_parse
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture
from drgnbook.landscape import gmm


def states(N, g):
    t = g.choice(6, N, p=[.4, .25, .15, .1, .09, .01])
    return (g.normal(size=(6, 8))*2)[t] + g.normal(size=(N, 8))*.5, t

def continuum(N, g):
    u = g.uniform(-1, 1, N)
    return np.stack([np.sin(2*u)*3, u**2*3, *g.normal(size=(6, N))*.5], 1) + g.standard_t(4, size=(N, 8))*.3, None

def before(z, most=20_000, seed=0):
    "Labels, as of the version before."
    some = z if len(z) <= most else z[np.random.default_rng(seed).choice(len(z), most, replace=False)]
    return min((GaussianMixture(j, n_init=3, random_state=seed).fit(some) for j in range(1, 11)), key=lambda g: g.bic(some)).predict(z)

@call_parse
def main(n: int = 20_000,      # points
         seeds: int = 3):
    for make in (states, continuum):
        for seed in range(seeds):
            z, truth = make(n, np.random.default_rng(seed))
            took, found = [], []
            for f in (before, lambda z: gmm(z)[0]):
                start = time.process_time(); found.append(f(z)); took.append(time.process_time() - start)
            ari = [adjusted_rand_score(truth, x) for x in found] if truth is not None else [adjusted_rand_score(*found)]
            print(f'{make.__name__:10} {seed}: {took[0]:6.1f} s → {took[1]:5.1f} s, ×{took[0]/took[1]:.1f}; groups {[len(np.unique(x)) for x in found]}, ARI {np.round(ari, 3).tolist()}', flush=True)
