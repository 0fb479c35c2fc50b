"""What a kernel takes of a GPU, compiled for it without one: registers, spilled bytes, shared memory."""

import contextlib
import io
import os
import pickle
import re
import subprocess
import sys
from typing import Any, NamedTuple


class Job(NamedTuple):
    """A kernel, found by module and name as a process that interprets kernels cannot hand one on."""

    module: str
    kernel: str
    signature: dict[str, str]  # types by argument: "*bf16", "i32"; those left out are constants
    constants: dict[str, Any]
    options: dict[str, int]  # num_warps, num_stages
    capability: int  # 80, 90


class Usage(NamedTuple):
    registers: int  # of a thread, 255 at most
    spilled: int  # bytes of a thread that are stored for want of registers
    shared: int  # bytes of a program


def usage(jobs: list[Job]) -> list[Usage]:
    """Compile all jobs in a process of their own, in which kernels are not interpreted."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, __file__],
        input=pickle.dumps([tuple(job) for job in jobs]),
        stdout=subprocess.PIPE,
        env=environment,
        check=True,
    )
    return [Usage(*found) for found in pickle.loads(done.stdout)]


def _compile(job: Job) -> tuple[int, int, int]:
    import importlib

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(job.module), job.kernel)
    signature = {name: job.signature.get(name, "constexpr") for name in kernel.arg_names}
    # as at a launch: pointers of torch are multiples of 16
    aligned = {(i,): [["tt.divisibility", 16]] for i, kind in enumerate(signature.values()) if kind.startswith("*")}
    triton.knobs.compilation.always_compile = triton.knobs.nvidia.dump_ptxas_log = True
    with contextlib.redirect_stdout(io.StringIO()) as told:
        source = ASTSource(kernel, signature, job.constants, aligned)
        compiled = triton.compile(source, target=GPUTarget("cuda", job.capability, 32), options=job.options)
    log = told.getvalue()
    registers = int(re.findall(r"Used (\d+) registers", log)[-1])
    spilled = int(re.findall(r"(\d+) bytes spill stores", log)[-1])
    return registers, spilled, compiled.metadata.shared


if __name__ == "__main__":
    found = [_compile(Job(*job)) for job in pickle.loads(sys.stdin.buffer.read())]
    sys.stdout.buffer.write(pickle.dumps(found))
