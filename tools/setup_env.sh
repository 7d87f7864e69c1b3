#!/usr/bin/env bash
# Makes the environment that mmkd runs in. Sourced by quickstart.sh and run_tests.sh; also runs alone:
#   bash tools/setup_env.sh [--stack original]
#   --stack original   OpenMMLab's own packages of 2024 with torch 2.1.2, in .venv-original, instead of the forks
# Every step is skipped when what it makes is already there and works, so a broken-off run goes on from where it stopped.
#   MMKD_STACK     onedl (default) or original, as --stack
#   MMKD_VENV      where the virtual environment goes (default: .venv in this checkout, or .venv-original)
#   MMKD_PYTHON    the Python to make it with (default: python3.11, else python3)
#   MMKD_CUDA      1: torch of CUDA and mmcv's CUDA ops, though there may be no GPU here (an image is built); needs nvcc;
#                  TORCH_CUDA_ARCH_LIST names the GPUs to compile for
#   MMKD_TORCH     the torch requirement (default: that of requirements/pinned*.txt, its CPU build where there is no NVIDIA GPU and pip finds one)
set -euo pipefail

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
if [ "${BASH_SOURCE[0]}" = "$0" ] && [ "$#" -gt 0 ]; then
    [ "$1" = --stack ] && [ "$#" = 2 ] || { echo "usage: bash tools/setup_env.sh [--stack original]" >&2; exit 2; }
    MMKD_STACK="$2"
fi
STACK="${MMKD_STACK:-onedl}"
case "$STACK" in
    onedl) VENV="${MMKD_VENV:-$ROOT/.venv}" PINS="$ROOT/requirements/pinned.txt" EXTRAS=onedl,onnx,pretrained,report,tests,docs MMCV=onedl-mmcv ;;
    original) VENV="${MMKD_VENV:-$ROOT/.venv-original}" PINS="$ROOT/requirements/pinned_original.txt" EXTRAS=openmmlab,onnx,pretrained,report,tests MMCV=mmcv ;;
    *) echo "error: no stack '$STACK': onedl or original" >&2; exit 2 ;;
esac
PY="$VENV/bin/python"
LOG="$VENV/setup.log"

say() { printf '\n[mmkd %s] %s\n' "$(date +%H:%M:%S)" "$*"; }
fail() { printf '\n[mmkd] FAILED: %s\n' "$1" >&2; shift; for line in "$@"; do printf '       %s\n' "$line" >&2; done; exit 1; }

# run WHAT MEND COMMAND...: the output goes to the log, its end to the screen when the command fails.
run() {
    local what="$1" mend="$2"; shift 2
    { printf '\n=== %s\n+ %s\n' "$what" "$*"; } >>"$LOG"
    "$@" >>"$LOG" 2>&1 || { tail -n 15 "$LOG" >&2; fail "$what" "$mend" "The whole output is in $LOG. Run the same command again to go on from here."; }
}
pip_install() { "$PY" -m pip install --disable-pip-version-check -c "$PINS" "$@"; }
has() { "$PY" -c "$1" >>"$LOG" 2>&1; }

make_venv() {
    [ -x "$PY" ] && "$PY" -m pip --version >/dev/null 2>&1 && return
    local python="${MMKD_PYTHON:-$(command -v python3.11 || command -v python3 || true)}"
    [ -n "$python" ] || fail "no python3 found" "Install Python 3.10 or newer, or name one: MMKD_PYTHON=/path/to/python3.11"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
        || fail "$python is $("$python" -V 2>&1)" "mmkd needs Python 3.10 or newer (measured with 3.11): MMKD_PYTHON=/path/to/python3.11"
    say "Making the virtual environment $VENV (seconds)"
    "$python" -m venv "$VENV" || fail "$python -m venv $VENV" "On Debian and Ubuntu: apt-get install python3-venv"
}

# The version that the stack is measured with.
pin() { sed -n "s/^$1==\([^ ]*\).*/\1/p" "$PINS"; }

install_torch() {
    local torch
    torch="$(pin torch)"
    if [ -n "${MMKD_TORCH:-}" ]; then  # its torchvision is pip's choice
        grep -v '^torch' "$PINS" >"$VENV/pinned.txt"
        PINS="$VENV/pinned.txt"
    fi
    has 'import torch' && return
    say "Installing torch (1 to 3 minutes, a download of 0.2 GB for the CPU build, several GB for CUDA)"
    if [ -n "${MMKD_TORCH:-}" ]; then
        run "installing $MMKD_TORCH" "Is the requirement in MMKD_TORCH right?" "$PY" -m pip install "$MMKD_TORCH"
        return
    fi
    if [ "${MMKD_CUDA:-0}" != 1 ] && ! command -v nvidia-smi >/dev/null 2>&1 && pip_install "torch==$torch+cpu" >>"$LOG" 2>&1; then return; fi
    run "installing torch $torch" "Is the network or the package index reachable?" pip_install "torch==$torch"
}

# The CPU build of torchvision where there is one (PyTorch's own index); PyPI has the CUDA build alone, beside whose missing
# operators mmkd/utils/torchvision_shim.py helps.
install_torchvision() {
    has 'import importlib.metadata as m; m.version("torchvision")' && return
    if has "import torch; assert torch.__version__.startswith('$(pin torch)+cpu')"; then
        pip_install "torchvision==$(pin torchvision)+cpu" >>"$LOG" 2>&1 || true
    fi
}

ops_load='import torch; from mmcv.ops import nms; b = torch.tensor([[0., 0., 2., 2.]]); nms(b, torch.ones(1), 0.5)'

# The wheel of mmcv with its ops, compiled here or kept from another time (tools/build_mmcv.py says what it does).
install_mmcv() {
    has "$ops_load" && return
    local again=() wheel
    if has "import importlib.metadata as m; m.version('$MMCV')"; then
        say "mmcv is installed but its compiled ops can't be loaded (built for another torch?): installing it again"
    fi
    if [ "${MMKD_CUDA:-0}" = 1 ]; then  # mmcv compiles for the GPU that it sees, or when told to
        command -v nvcc >/dev/null 2>&1 || fail "MMKD_CUDA=1, but no CUDA compiler (nvcc)" "Install the CUDA toolkit of torch's CUDA version."
        export FORCE_CUDA=1
    fi
    say "Installing mmcv with its compiled ops (about 4 minutes of CPU time the first time, then seconds)"
    while true; do
        wheel="$("$PY" "$ROOT/tools/build_mmcv.py" "$MMCV==$(pin "$MMCV")" --log "$LOG" ${again[@]+"${again[@]}"})" || {
            tail -n 15 "$LOG" >&2
            fail "building mmcv" "Measured: onedl-mmcv 2.3.6 with torch 2.13.0, mmcv 2.1.0 with torch 2.1.2." \
                "The whole output is in $LOG. Run the same command again to go on from here."
        }
        run "installing mmcv" "Is the network or the package index reachable?" pip_install --force-reinstall --no-deps "$wheel"
        run "installing what mmcv needs" "Is the network or the package index reachable?" pip_install "$wheel"
        has "$ops_load" && return
        [ "${#again[@]}" -eq 0 ] || fail "mmcv's compiled ops can't be loaded" "Run: $PY $ROOT/tools/doctor.py"
        again=(--again)
    done
}

install_mmkd() {
    local stamp="$VENV/mmkd-installed" sum
    sum="$(cat "$ROOT"/setup.py "$ROOT"/requirements/*.txt | sha256sum | cut -d' ' -f1) $ROOT"
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$sum" ] && return
    say "Installing the other OpenMMLab packages and mmkd, editable (about 1 minute)"
    run "installing mmkd" "Is the network or the package index reachable?" \
        pip_install --no-build-isolation -e "$ROOT[$EXTRAS]"
    mend_torchvision
    printf '%s' "$sum" >"$stamp"
}

# mmkd's shim for a torchvision of CUDA beside a torch of the CPU, for the plain toolboxes in this environment, too.
mend_torchvision() {
    has 'import torchvision' && return
    has 'import importlib.metadata as m; m.version("torchvision")' || return 0
    local site
    site="$("$PY" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
    cp "$ROOT/mmkd/utils/torchvision_shim.py" "$site/mmkd_torchvision_shim.py"
    echo 'import mmkd_torchvision_shim; mmkd_torchvision_shim.install()' >"$site/mmkd_torchvision_shim.pth"
    has 'import torchvision' || fail "importing torchvision" "Run: $PY $ROOT/tools/doctor.py"
    say "torchvision from PyPI is a CUDA build: its two missing operators are declared in this environment (mmkd_torchvision_shim.pth)"
}

setup_env() {
    make_venv
    install_torch
    install_torchvision
    has 'import setuptools, wheel, ninja, psutil' || {
        say "Installing the build tools (seconds)"
        run "installing the build tools" "Is the network or the package index reachable?" pip_install -r "$ROOT/requirements/build.txt"
    }
    install_mmcv
    install_mmkd
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    setup_env
    say "Ready: $PY"
fi
