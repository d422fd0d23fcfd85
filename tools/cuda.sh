#!/bin/sh
# Puts the CUDA compiler into .cuda/ of the repository, from NVIDIA's wheels; does nothing when these versions are there.
# build.rs compiles kernels/ with it, and the emulator's tests theirs (to PTX only: no GPU, no driver and no CUDA toolkit are needed).
set -eu
cd "$(dirname "$0")/.."

wheels="nvidia-cuda-nvcc==13.0.88 nvidia-nvvm==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-cuda-runtime==13.0.96
nvidia-cuda-cccl==13.0.85"

fail() {
	echo "tools/cuda.sh: $1" >&2
	exit 1
}

# The list of an installation is written last, so what is there is complete.
if [ -f .cuda/wheels ] && [ "$(cat .cuda/wheels)" = "$wheels" ]; then
	exit 0
fi
python3 -m pip --version >/dev/null 2>&1 || fail "needs python3 with pip (Debian: apt install python3-pip)"
command -v g++ >/dev/null || fail "nvcc needs g++ (Debian: apt install g++)"

rm -rf .cuda
# shellcheck disable=SC2086 # one argument per wheel
python3 -m pip install --quiet --disable-pip-version-check --no-warn-script-location --no-deps --target .cuda $wheels ||
	fail "pip could not install the wheels (see above)"
.cuda/nvidia/cu13/bin/nvcc --version >/dev/null || fail "the installed nvcc does not run"
echo "$wheels" >.cuda/wheels
