"""The assembling 50S subunit of EMPIAR-10076, as far as its atoms and four major states are known.

    python benchmarks/empiar10076.py [--data ../shared/data] [--n 20000] [--z subspace]

simulates particles of the states B, C, D and E in their published proportions (real CTF rows, SNR 0.63 inside 105 Å at
64 px, no junk), fits them with the defaults, and prints what was found against the truth.
"""
import json, tempfile, time
from pathlib import Path
import numpy as np
from fastcore.script import call_parse
from drgnbook import *

COUNTS = dict(B=12650, C=26104, D=26138, E=36561)      # published particles of each major state


def assembly_10076(folder, **beads) -> Assembly:
    "From a folder with `atoms/*.pdb` and `states.json`; a chain is there as much as it was measured to be in maps of the class (0 if it counts as absent)."
    folder = Path(folder)
    known = json.loads((folder/'states.json').read_text())
    chains = list(known['segments'])                   # in the order of the occupancies, which go by other names
    def present(c):
        occupancy = dict(zip(chains, c['mean_occupancy'].values()))
        return {b: x for b, x in occupancy.items() if b not in c['absent_chains']}
    states = {name: present(c) for name, c in known['classes'].items()}
    return Assembly.from_atoms(sorted((folder/'atoms').glob('*.pdb')), states, COUNTS, centre=(209.6,)*3, **beads)      # the models' box is 419.2 Å, from its corner


def score(run, ps, truth, true):
    "Adjusted Rand index of a k = 4 clustering, and pixels at FSC = 0.5 of each class's map: the decoder's, on data, and backprojection's."
    from sklearn.metrics import adjusted_rand_score
    labels = {'k-means': kmeans(run.z, 4)[0], 'Gaussian mixture': gmm(run.z, 4)[0]}
    rows = {f'adjusted Rand index, {how}': adjusted_rand_score(truth.state, found) for how, found in labels.items()}
    groups = labels['Gaussian mixture']
    for s in COUNTS:
        mine = groups == np.bincount(groups[truth.state == s]).argmax()        # the group that holds most of the class
        centre = nearest(run.z, run.z[mine].mean(0))
        rows[f'{s}, px at FSC = 0.5, decoder'] = run.config['D']/resolution(run.volume(run.z[centre[0]]).fsc(true[s]))
        rows[f'{s}, px at FSC = 0.5, its particles backprojected'] = run.config['D']/resolution(reconstruct(ps[mine]).volume.fsc(true[s]))
    return rows


@call_parse
def main(data: str = '../shared/data',      # the shared folder
         n: int = 20_000,                   # particles
         epochs: int = 3,                   # passes over them
         z: str = 'subspace',               # source of z: 'subspace', 'encoder', 'table'
         seed: int = 0):                    # of simulation and fit
    "Simulate, fit, compare with the truth."
    with tempfile.TemporaryDirectory() as tmp:
        folder, data = Path(tmp), Path(data)
        molecule, ctf = assembly_10076(data/'empiar10076').maps(64, 6.55), read_cryodrgn_ctf(data/'ctf/empiar10028_ctf.pkl')
        start = time.time()
        ps = simulate(molecule, n=n, D=64, apix=6.55, snr=.63, within=105., ctf=ctf, junk=0., seed=seed, out=folder/'particles')
        simulated = time.time()
        run = fit(ps, z=z, epochs=epochs, seed=seed, out=folder/'run')
        fitted = time.time()
        true = {s: Volume.load(folder/f'particles/truth/{s}.mrc') for s in COUNTS}
        rows = {'seconds to simulate': simulated - start, 'seconds to fit': fitted - simulated, **score(run, ps, read_truth(folder/'particles'), true)}
    print(f'\n{n:,} particles of 64 px, SNR 0.63, seed {seed}, z from the {z}, {epochs} epochs')
    for what, x in rows.items(): print(f'| {what} | {x:.3f} |')
