"The checker of annotated shapes and types in tests: beartype, to which an int is a float too, as Python's type hints say."
from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

check = beartype(conf=BeartypeConf(is_pep484_tower=True))

def check_imports():
    "From here on, importing drgnbook gives functions that check what they are given and what they return"
    install_import_hook('drgnbook', 'shapes.check')
