"""What the memory scan's kernels take of a GPU, compiled without one."""

from typing import Any, NamedTuple

import pytest
from compiled import Job, Usage, usage

from tests.conftest import thinned
from titans_seq.ops.memory_scan.triton import Spec, backward, forward, gates

# Of a backbone as it comes, but for its chunk of 32: two layers, momentum, forgetting, the normalised step.
MLP = Spec(
    C=64, TILE=64, D=64, HIDDEN=128, DEPTH=2, ACTIVATION="gelu", NORM=False, NORMALISED=True, BIAS="l2", POWER=2.0,
    SMOOTH=0.0, DELTA=0.0, RETURNS=True, READ="after", WIDE_THETA=False, WIDE_DELTA=False,
)  # fmt: skip
SHORT = MLP._replace(C=32, TILE=32)
MATRIX = MLP._replace(DEPTH=1, HIDDEN=64)
WIDE = MLP._replace(D=128, HIDDEN=512)

PRODUCTS = {"q", "k", "v", "y", "dy", "dq", "dv"}  # in the dtype that is multiplied; all other tensors are float32
NUMBERS = {"first", "T", "N", "P"}
ABSENT = {"delta", "ddelta", "gain", "dgain"}  # the bias has no δ, the structure no γ
BETWEEN = {"dhidden", "dfirst"}  # of two layers
SHARED = {80: 163, 90: 227}  # KiB of a program at most (CUDA C++ programming guide, compute capabilities)


class Case(NamedTuple):
    """A kernel as it is launched, and what it may take: as measured with Triton 3.6 and 3.7, and a little more."""

    kernel: Any
    spec: Spec
    most: Usage
    dtype: str = "bf16"
    capability: int = 90
    block: int = 32
    warps: int = 8

    def job(self) -> Job:
        constants = {"SPEC": self.spec, "BLOCK": self.block} | dict.fromkeys(ABSENT)
        if self.spec.DEPTH == 1:
            constants |= dict.fromkeys(BETWEEN)
        names = set(self.kernel.arg_names)
        tensors = names - constants.keys() - NUMBERS
        types = {name: f"*{self.dtype if name in PRODUCTS else 'fp32'}" for name in tensors}
        types |= dict.fromkeys(names & NUMBERS, "i32")
        given = {name: value for name, value in constants.items() if name in names}
        options = {"num_warps": self.warps, "num_stages": 1}
        return Job(self.kernel.fn.__module__, self.kernel.fn.__name__, types, given, options, self.capability)


CASES = [
    Case(forward.state_pass, MLP, Usage(250, 0, 46_000)),
    Case(forward.output_pass, MLP, Usage(250, 0, 33_000)),
    Case(forward.output_pass, WIDE, Usage(255, 350, 66_000)),
    Case(forward.output_pass, MATRIX, Usage(255, 0, 17_000), capability=80, block=64),
    Case(backward.output_back, MLP, Usage(255, 2_100, 62_000)),
    Case(backward.state_back, SHORT, Usage(255, 280, 35_000)),
    Case(backward.state_back, MATRIX, Usage(255, 200, 62_000), dtype="fp32"),
    Case(gates.gates_back, MLP, Usage(50, 0, 0), warps=1),
]


@pytest.mark.parametrize("cases", thinned([CASES[::3], CASES[1::3], CASES[2::3]]), ids=["first", "second", "third"])
def test_kernels_take_no_more_of_a_gpu_than_they_did(cases: list[Case]) -> None:
    for case, found in zip(cases, usage([case.job() for case in cases]), strict=True):
        where = f"{case.kernel.fn.__name__} of {case.spec}, {case.dtype}, sm_{case.capability}"
        assert case.most.shared <= SHARED[case.capability] * 1024
        for resource, most, taken in zip(Usage._fields, case.most, found, strict=True):
            assert taken <= most, f"{where} takes {taken} {resource}"
