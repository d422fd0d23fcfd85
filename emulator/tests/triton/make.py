"""Compiles `kernels.py` to the PTX files beside it. Needs no GPU:

    pip install triton==3.7.1
    python3 make.py

Every NAME.ptx has a NAME.json: the kernel, its warps, the bytes of dynamic shared memory, its parameters in order
(Triton adds two scratch pointers after them) and the constants that it was compiled with.
"""

import json
import os
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp()

import triton  # noqa: E402
import triton.language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

HERE = Path(__file__).resolve().parent

# Compiled under a bare name (an import would make it absolute), so that the PTX names no folder of this machine.
os.chdir(HERE)
kernels = SimpleNamespace(__name__="kernels")
exec(compile(Path("kernels.py").read_text(), "kernels.py", "exec"), vars(kernels))


@dataclass
class Build:
    kernel: object
    # Parameters with types, as in "x:*fp32 n:i32".
    params: str
    constants: dict
    # Sizes known to be multiples of 16, as all pointers are: what they stride over is moved by `cp.async`.
    aligned: str = ""
    warps: int = 4
    options: dict = field(default_factory=dict)

    def write(self, name, capability):
        types = dict(param.split(":") for param in self.params.split())
        known = [i for i, (n, t) in enumerate(types.items()) if t.startswith("*") or n in self.aligned.split()]
        source = ASTSource(
            self.kernel,
            {**types, **{constant: "constexpr" for constant in self.constants}},
            constexprs=self.constants,
            attrs={(i,): [["tt.divisibility", 16]] for i in known},
        )
        options = {"num_warps": self.warps, "num_stages": 3, **self.options}
        made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
        about = {
            "kernel": made.metadata.name,
            "num_warps": made.metadata.num_warps,
            "shared": made.metadata.shared,
            "params": self.params.split(),
            "constants": {constant: str(value) for constant, value in self.constants.items()},
        }
        path = HERE / f"{name}_sm{capability}"
        path.with_suffix(".ptx").write_text(without_folders(made.asm["ptx"]))
        path.with_suffix(".json").write_text(json.dumps(about, indent=1) + "\n")


def without_folders(ptx):
    """The text, with Triton's own files named without the folder that they are installed in."""
    return re.sub(r'(\.file\s+\d+) "[^"]*/(triton/[^"]*)"', r'\1 "\2"', ptx)


def matmul(element, out, acc, tile, **more):
    params = f"a:*{element} b:*{element} c:*{out} m:i32 n:i32 k:i32 lda:i32 ldb:i32 ldc:i32"
    return Build(kernels.matmul, params, dict(zip(("BM", "BN", "BK"), tile), ACC=acc), **more)


SIZES = "m n k lda ldb ldc"
BUILDS = {
    "softmax": Build(kernels.softmax, "x:*fp32 y:*fp32 cols:i32 stride:i32", dict(BLOCK=1024)),
    "layer_norm": Build(
        kernels.layer_norm, "x:*bf16 weight:*bf16 bias:*bf16 y:*bf16 cols:i32 eps:fp32", dict(BLOCK=1024)
    ),
    "matmul_bf16": matmul("bf16", "bf16", tl.float32, (64, 64, 32), aligned=SIZES),
    "matmul_f16": matmul("fp16", "fp16", tl.float32, (128, 64, 32), aligned=SIZES, warps=8),
    "matmul_i8": matmul("i8", "i32", tl.int32, (64, 64, 64)),
    "matmul_tf32": matmul("fp32", "fp32", tl.float32, (32, 32, 32)),
    "attention": Build(
        kernels.attention,
        "q:*bf16 k:*bf16 v:*bf16 o:*bf16 length:i32 scale:fp32",
        dict(HEAD=64, BM=64, BN=32),
    ),
    "histogram": Build(kernels.histogram, "x:*i32 bins:*i32 n:i32", dict(BINS=64, BLOCK=512)),
    "scatter": Build(kernels.scatter, "x:*fp32 at:*i32 sums:*fp32 tops:*i32 n:i32", dict(BLOCK=256)),
    "reduce": Build(kernels.reduce, "x:*i32 sums:*i32 best:*i32 where:*i32 cols:i32", dict(ROWS=8, BLOCK=256)),
    "running": Build(kernels.running, "x:*i32 y:*i32 cols:i32", dict(BLOCK=256)),
    "elementary": Build(
        kernels.elementary, "x:*fp32 roots:*fp32 sines:*fp32 cosines:*fp32 logs:*fp32 n:i32", dict(BLOCK=256)
    ),
    "guarded": Build(kernels.guarded, "x:*i32 n:i32", dict(BLOCK=128), options=dict(debug=True)),
}

if __name__ == "__main__":
    for name, build in BUILDS.items():
        build.write(name, 80)
    # On sm_90 the product is `wgmma`.
    for name in ("softmax", "reduce", "matmul_bf16"):
        BUILDS[name].write(name, 90)
