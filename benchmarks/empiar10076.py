"The assembling 50S subunit of EMPIAR-10076, as far as its atoms and four major states are known."
import json
from pathlib import Path
from drgnbook.assembly import Assembly

COUNTS = dict(B=12650, C=26104, D=26138, E=36561)      # published particles of each major state


def assembly_10076(folder) -> Assembly:
    "From a folder with `atoms/*.pdb` and `states.json`; a chain is there as much as it was measured to be in maps of the class (0 if it counts as absent)."
    folder = Path(folder)
    known = json.loads((folder/'states.json').read_text())
    chains = list(known['segments'])                   # in the order of the occupancies, which go by other names
    def present(c):
        occupancy = dict(zip(chains, c['mean_occupancy'].values()))
        return {b: x for b, x in occupancy.items() if b not in c['absent_chains']}
    states = {name: present(c) for name, c in known['classes'].items()}
    return Assembly.from_atoms(sorted((folder/'atoms').glob('*.pdb')), states, COUNTS, centre=(209.6,)*3)      # the models' box is 419.2 Å, from its corner
