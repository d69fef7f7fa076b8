#!/bin/sh
# Makes VENV (default .venv) and puts the locked CPU set into it. Done already for this lock: does nothing.
#   requirements/install.sh [VENV]        PYTHON=python3.11 by default
set -eu
cd "$(dirname "$0")/.."
venv=${1:-.venv}
python=${PYTHON:-python3.11}
torch=2.13.0

stamp="$venv/.installed-$(cat requirements/cpu.lock requirements/install.sh pyproject.toml | sha256sum | cut -c1-16)"
[ -e "$stamp" ] && exit 0

command -v "$python" >/dev/null || {
    echo "install: no $python on the PATH; set PYTHON to a Python 3.11 interpreter" >&2
    exit 2
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
"$venv/bin/python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || {
    echo "install: $venv is not Python 3.11, which the lock is made for; remove it or set PYTHON" >&2
    exit 2
}
pip() { "$venv/bin/python" -m pip --disable-pip-version-check --no-input "$@"; }

# torch: the CPU build (about 200 MB) from pip's configured sources, else from PyTorch's own index of CPU builds,
# else PyPI's ordinary build of that version, which brings CUDA (several GB) and runs on a CPU as well.
has_torch() {
    "$venv/bin/python" -c "import importlib.metadata as m, sys; sys.exit(not m.version('torch').startswith('$torch'))" \
        2>/dev/null
}
if ! has_torch; then
    echo "install: torch $torch into $venv" >&2
    pip install --quiet --no-deps "torch==$torch+cpu" 2>/dev/null ||
        pip install --quiet --no-deps --index-url https://download.pytorch.org/whl/cpu "torch==$torch+cpu" 2>/dev/null || {
        echo "install: no CPU build of torch $torch to be had; taking the ordinary one with CUDA (several GB)" >&2
        pip install --quiet "torch==$torch"
    }
fi
echo "install: $(grep -c == requirements/cpu.lock) locked packages into $venv (about two minutes)" >&2
pip install --quiet --no-deps --require-hashes -r requirements/cpu.lock
pip install --quiet --no-deps --no-build-isolation --editable .
# The trainer's kernels, once, into the user's cache: three processes that start together would each compile them.
echo "install: compiling kernels (half a minute)" >&2
"$venv/bin/python" -c 'from online_trainer.exchange import messages, payloads; payloads.warm_up(messages.Rule())' ||
    echo "install: the kernels could not be compiled now; whoever needs them will" >&2
rm -f "$venv"/.installed-*
: >"$stamp"
