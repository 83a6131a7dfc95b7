__version__ = "0.1.0"

# `from drgnbook import *` brings the public names of these, in the order of their notebooks. Written by hand: nbdev keeps it.
from drgnbook.fourier import *
from drgnbook.pose import *
from drgnbook.ctf import *
from drgnbook.metadata import *
from drgnbook.volume import *
from drgnbook.star import *
from drgnbook.cs import *
from drgnbook.cryodrgn import *
from drgnbook.stacks import *
from drgnbook.io import *
from drgnbook.forward import *
from drgnbook.particles import *
from drgnbook.assembly import *
from drgnbook.simulate import *
from drgnbook.data import *
from drgnbook.decoder import *
from drgnbook.latent import *
from drgnbook.orient import *
from drgnbook.reconstruct import *
from drgnbook.subspace import *
from drgnbook.basis import *
from drgnbook.train import *
from drgnbook.landscape import *

# The names alone, without the modules: a module named io would hide Python's own
from types import ModuleType as _Module
__all__ = [name for name, it in globals().items() if name[0] != '_' and not isinstance(it, _Module)]
