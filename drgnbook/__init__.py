__version__ = "0.1.0"

# `from drgnbook import *` and `drgnbook.NAME` bring the public names of these, in the order of their notebooks. Written by hand: nbdev keeps it.
_MODULES = '''
fourier
pose
hopf
cores
ctf
metadata
volume
star
cs
cryodrgn
stacks
io
cxc
surface
forward
particles
assembly
simulate
data
standin
empiar
decoder
latent
orient
search
reconstruct
subspace
abinitio
basis
model
postprocess
verify
cluster
run
train
fit
foreign
walk
landscape
convergence
paths
evidence
occupancy
states
scores
export
validate
halves
widget
view
explore
monitor
'''.split()

# Cores that share a product wait for each other: by looking again and again for a long while, each in the way of whoever else is on the machine, or (from here on, unless torch is there already) for a moment only, then asleep.
import os as _os
_os.environ.setdefault('GOMP_SPINCOUNT', '1000')

# They are loaded when the first name is asked for: torch takes a second, and `drgnbook --help` needs none of them.
import sys as _sys
from importlib import import_module as _import
from types import ModuleType as _Module

class _Package(_Module):
    "A package in which a function wins over the module of its name: `drgnbook.subspace` is what subspace.py defines."
    def __setattr__(self, name, it): super().__setattr__(name, getattr(it, name) if isinstance(it, _Module) and name in getattr(it, '__all__', ()) else it)

_sys.modules[__name__].__class__ = _Package

def __getattr__(name):
    "A name that is not here yet: load all of them."
    if '__all__' not in globals() and (name == '__all__' or name[0] != '_'):
        names = {n: getattr(m, n) for m in [_import(f'drgnbook.{m}') for m in _MODULES] for n in m.__all__}
        globals().update(names, __all__=list(names))
    try: return globals()[name]
    except KeyError: raise AttributeError(f'drgnbook has no {name}') from None

def __dir__(): return sorted({*globals(), *__getattr__('__all__')})
