#!/bin/sh
# cryoDRGN in an environment of its own, to be compared with: sh benchmarks/peer_env.sh [FOLDER] [PYTHON] [TORCH]
# Without its declared dependencies: they bring JupyterLab, and have pinned another torch. What follows is what its programs import.
set -e
peer=${1:-.peer}; python=${2:-python3}; torch=${3:-torch==2.13.0}
[ -e "$peer/.ready" ] && exit 0
"$python" -m venv "$peer"
"$peer/bin/python" -m pip install -q $torch
"$peer/bin/python" -m pip install -q numpy scipy 'pandas<3' scikit-learn healpy umap-learn igraph starfile pyyaml matplotlib seaborn joblib nbformat flask 'plotly<7'
"$peer/bin/python" -m pip install -q --no-deps cryodrgn==4.3.1
"$peer/bin/cryodrgn" --version
touch "$peer/.ready"
