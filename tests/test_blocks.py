"""Laws of every block: causal, the same in any split, rows of a batch apart, no dead parameter."""

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from titans_seq.blocks import LMM, MAC, MAG, MAL, AttentionOnly, Block, BlockConfig
from titans_seq.errors import ModelError
from titans_seq.memory import MemoryConfig, NeuralMemory
from titans_seq.memory_state import MemoryState, load_state, save_state, state_tensors
from titans_seq.miras.learning import GradientDescent
from titans_seq.miras.structure import MLP, Matrix

BLOCKS = get_args(get_args(BlockConfig)[0])
WIDTH, HEADS, LENGTH = 8, 2, 30
EXACT = {"rtol": 1e-10, "atol": 1e-10}  # float64, entries of order 1
MEMORY = MemoryConfig(chunk_size=8)
PAPER = MAC(mode="paper", segment=8)
CAUSAL: list[tuple[BlockConfig, MemoryConfig]] = [
    *((block(), MEMORY) for block in BLOCKS),  # with windows and segments longer than the stream
    (LMM(persistent=0), MemoryConfig(structure=Matrix(), chunk_size=8, learning=GradientDescent())),
    (LMM(persistent=11), MemoryConfig(structure=MLP(norm=True), chunk_size=4, read="before")),
    (MAC(segment=8, persistent=0), MEMORY),
    (MAC(segment=12, persistent=11, residual=False), MemoryConfig(chunk_size=6, conv=1)),
    (MAG(window=5, persistent=0), MEMORY),
    (MAG(window=1, persistent=11), MemoryConfig(structure=MLP(norm=True, depth=3), chunk_size=5)),
    (MAL(window=5, persistent=0), MEMORY),
    (MAL(window=7, persistent=11), MEMORY),
    (AttentionOnly(window=5, persistent=3), MEMORY),
]
EVERY = [*CAUSAL, (PAPER, MEMORY)]


def named(case: tuple[BlockConfig, MemoryConfig]) -> str:
    return "-".join(str(value) for value in case[0].model_dump().values())


every_block = pytest.mark.parametrize("case", EVERY, ids=named)
every_causal_block = pytest.mark.parametrize("case", CAUSAL, ids=named)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def block_and_input(case: tuple[BlockConfig, MemoryConfig], batch: int = 2) -> tuple[Block, Tensor]:
    block = Block(WIDTH, HEADS, 16, 0.0, *case).double()
    return block, torch.randn(batch, LENGTH, WIDTH, dtype=torch.float64)


def start(block: Block, batch: int = 2) -> MemoryState:
    state: MemoryState = block.mixer.initial_state(batch)
    return state


def in_parts(block: Block, x: Tensor, cuts: list[int]) -> tuple[Tensor, MemoryState]:
    state, rows = start(block, len(x)), []
    for part in x.tensor_split(cuts, 1):
        y, state = block(part, state)
        rows.append(y)
    return torch.cat(rows, 1), state


def assert_same(ours: tuple[Tensor, MemoryState], theirs: tuple[Tensor, MemoryState]) -> None:
    torch.testing.assert_close(ours[0], theirs[0], **EXACT)
    found, expected = state_tensors(ours[1]), state_tensors(theirs[1])
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, **EXACT, msg=lambda m, name=name: f"{name}: {m}")


def test_every_block_is_under_test() -> None:
    assert {type(block) for block, _ in EVERY} == set(BLOCKS)


def after_persistent(mixer: Any, config: BlockConfig) -> tuple[Tensor | None, MemoryState]:
    """What the memory made of the persistent tokens, which are a chunk of their own, and its state then."""
    state = mixer.memory.initial_state(2)
    if not config.persistent:
        return None, state
    prefix, state = mixer.memory(mixer.persistent.expand(2, -1, -1), state)
    return prefix, state._replace(scan=state.scan._replace(start=state.scan.weights, offset=0))


def equations(mixer: Any, config: BlockConfig, x: Tensor) -> Tensor:
    """The mixers of Titans, section 4, written out for a whole stream."""
    nothing = () if mixer.attention is None else mixer.attention.initial_window(2)
    if isinstance(config, AttentionOnly):
        y: Tensor = mixer.attention.sliding(x, nothing, config.window, mixer.persistent)[0]
    elif isinstance(config, LMM):
        y, _ = mixer.memory(x, after_persistent(mixer, config)[1])
    elif isinstance(config, MAG):  # eq. 26-28
        seen, _ = mixer.attention.sliding(x, nothing, config.window, mixer.persistent)
        read, _ = mixer.memory(x, after_persistent(mixer, config)[1])
        y = mixer.combine.norm_y(seen) * torch.sigmoid(mixer.combine.norm_m(read))
    elif isinstance(config, MAL):  # eq. 29-31
        prefix, state = after_persistent(mixer, config)
        read, _ = mixer.memory(x, state)
        y, _ = mixer.attention.sliding(
            mixer.norm(read), nothing, config.window, None if prefix is None else mixer.norm(prefix)
        )
    else:  # eq. 21-25
        state, rows = mixer.memory.initial_state(2), []
        tail = state.tails[..., :WIDTH]
        prefix = x.new_zeros(1, 0, WIDTH) if mixer.persistent is None else mixer.persistent
        for segment in x.split(config.segment, 1):
            h, tail = mixer.memory.retrieve(segment, state.scan, tail)
            causal = config.mode == "causal"
            seen, _ = mixer.attention.segment(segment, h, (*nothing, *nothing), config.segment, prefix, causal)
            seen = segment + seen if config.residual else seen
            before = state.tails[..., :WIDTH]
            read, state = mixer.memory(seen, state)
            if not causal:
                read, _ = mixer.memory.retrieve(seen, state.scan, before)
            rows.append(mixer.combine.norm_y(seen) * torch.sigmoid(mixer.combine.norm_m(read)))
        y = torch.cat(rows, 1)
    return y


@every_block
def test_a_mixer_is_its_equations(case: tuple[BlockConfig, MemoryConfig]) -> None:
    """Outputs, and the gradient of every parameter."""
    block, x = block_and_input(case)
    y, _ = block.mixer(x, start(block))
    expected = equations(block.mixer, case[0], x)
    torch.testing.assert_close(y, expected, **EXACT)
    cotangent, parameters = torch.randn_like(y), dict(block.mixer.named_parameters())
    ours, theirs = (torch.autograd.grad((part * cotangent).sum(), list(parameters.values())) for part in (y, expected))
    for name, a, b in zip(parameters, ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-10 * b.abs().max(), name


@every_causal_block
@settings(max_examples=5, deadline=None, derandomize=True)
@given(cuts=st.lists(st.integers(0, LENGTH), max_size=6).map(sorted))
def test_any_split_of_the_stream_is_one_pass(case: tuple[BlockConfig, MemoryConfig], cuts: list[int]) -> None:
    block, x = block_and_input(case)
    assert_same(in_parts(block, x, cuts), block(x, start(block)))


@every_causal_block
def test_token_by_token_is_one_pass(case: tuple[BlockConfig, MemoryConfig]) -> None:
    block, x = block_and_input(case)
    y, state = in_parts(block, x, list(range(1, LENGTH)))
    assert_same((y, state), block(x, start(block)))
    assert state.position == LENGTH


@every_causal_block
def test_the_future_does_not_reach_the_past(case: tuple[BlockConfig, MemoryConfig]) -> None:
    block, x = block_and_input(case)
    before, _ = block(x, start(block))
    for since in (1, 13, 17, LENGTH - 1):
        changed = x.clone()
        changed[:, since:] = torch.randn_like(changed[:, since:])
        after, _ = block(changed, start(block))
        # not bitwise: a matrix product may sum in another order when the numbers beside it change
        torch.testing.assert_close(after[:, :since], before[:, :since], rtol=1e-14, atol=1e-14)
        assert (after[:, since] - before[:, since]).abs().max() > 1e-3


def test_inside_a_segment_mac_as_printed_lets_the_future_reach_the_past() -> None:
    """Titans, eq. 21-25: h is visible to all rows of its segment, and o reads the memory after the last of them."""
    block, x = block_and_input((PAPER, MEMORY))
    changed = x.clone()
    changed[:, 15] += 1  # the last row of the second segment
    before, after = (block(part, start(block))[0] for part in (x, changed))
    moved = (after - before).abs().amax((0, 2))
    assert (moved[8:15] > 1e-6).all()  # every earlier row of its segment knows
    assert (moved[:8] < 1e-14).all()  # earlier segments do not


@pytest.mark.parametrize("cuts", [[8], [16, 24], [8, 16, 24]], ids=str)
def test_mac_as_printed_is_the_same_in_whole_segments(cuts: list[int]) -> None:
    block, x = block_and_input((PAPER, MEMORY))
    assert_same(in_parts(block, x, cuts), block(x, start(block)))


def test_mac_as_printed_refuses_to_go_on_inside_a_segment() -> None:
    block, x = block_and_input((PAPER, MEMORY))
    with pytest.raises(ValueError, match=r"inside a segment: 3 rows of 8 were read\. Cut the stream at whole segments"):
        in_parts(block, x, [3])


@every_block
def test_rows_of_a_batch_do_not_meet(case: tuple[BlockConfig, MemoryConfig]) -> None:
    block, x = block_and_input(case, batch=3)
    y, state = block(x, start(block, 3))
    for row in range(3):
        alone, its_state = block(x[row : row + 1], start(block, 1))
        torch.testing.assert_close(alone, y[row : row + 1], **EXACT)
        for name, tensor in state_tensors(its_state).items():
            whole = state_tensors(state)[name]
            torch.testing.assert_close(tensor, whole[row : row + 1] if whole.ndim else whole, **EXACT)


@every_block
def test_every_backend_is_one_block(case: tuple[BlockConfig, MemoryConfig]) -> None:
    """Outputs, state and slopes, also where keys follow from what was read of the memory, as in MAC."""
    block, x = block_and_input(case)
    memories = [part for part in block.modules() if isinstance(part, NeuralMemory)]
    found = []
    for backend in ("chunked", "reference"):
        for memory in memories:
            memory.backend = backend
        y, state = block(x, start(block))
        slopes = torch.autograd.grad(y.square().sum(), list(block.parameters()))
        with torch.no_grad():
            assert_same(block(x, start(block)), (y, state))
        found.append((y, state, slopes))
    assert_same(found[0][:2], found[1][:2])
    for ours, theirs in zip(found[0][2], found[1][2], strict=True):
        torch.testing.assert_close(ours, theirs, **EXACT)


@every_block
def test_gradients_reach_every_parameter(case: tuple[BlockConfig, MemoryConfig]) -> None:
    """The initial memory, its gates and the persistent tokens too."""
    block, x = block_and_input(case)
    y, _ = block(x, start(block))
    (y * torch.randn_like(y)).sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad is not None, f"{name} is dead"
        assert parameter.grad.isfinite().all() and parameter.grad.abs().max() > 1e-9, f"{name} is dead"


@every_block
def test_the_place_in_the_stream_does_not_matter(case: tuple[BlockConfig, MemoryConfig]) -> None:
    """2²⁶ tokens on, or 3 x 2²⁴ for segments of 12, a block does what it did at the start: positions are relative."""
    block, x = block_and_input(case)
    far = 3 * 2**24
    here, end = block(x, start(block))
    there, far_end = block(x, start(block)._replace(position=far))
    assert torch.equal(here, there)
    assert far_end.position == far + LENGTH and end.position == LENGTH


@every_block
def test_a_saved_state_is_the_state(case: tuple[BlockConfig, MemoryConfig], tmp_path: Path) -> None:
    """Saved in the middle of chunk, window and segment; bit for bit, and so is what comes after."""
    block, x = block_and_input(case)
    cut = 16 if case[0] == PAPER else 13
    _, state = block(x[:, :cut], start(block))
    save_state(state, tmp_path / "state")
    again = load_state(tmp_path / "state", start(block))
    found, expected = state_tensors(again), state_tensors(state)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert torch.equal(block(x[:, cut:], again)[0], block(x[:, cut:], state)[0])


def test_a_state_of_another_block_is_refused(tmp_path: Path) -> None:
    """By its form: what MAG and MAL of one size hand on has the same form, so one of them stands for both."""
    blocks = [Block(WIDTH, HEADS, 16, 0.0, config, MEMORY) for config in (LMM(), MAC(), MAL(), AttentionOnly())]
    for block in blocks:
        save_state(start(block), tmp_path / "state")
        for other in blocks:
            if other is not block:
                with pytest.raises(ModelError, match="state was made by another model"):
                    load_state(tmp_path / "state", start(other))


@every_block
def test_autocast_keeps_the_memory_in_float32(case: tuple[BlockConfig, MemoryConfig]) -> None:
    block, x = block_and_input(case)
    block, x = block.float(), x.float()
    full, _ = block(x, start(block))
    with torch.autocast("cpu", torch.bfloat16):
        y, state = block(x, start(block))
    scans = [scan for scan in (state.scan, state.segment) if scan is not None]
    assert all(w.dtype == torch.float32 for scan in scans for group in scan[:3] for w in group)
    # bfloat16 has 8 bits, 0.4 %; a dozen products and roundings in a row: at most 3 % of the largest entry measured
    assert (y.float() - full).abs().max() < 0.06 * full.abs().max()


@pytest.mark.parametrize("block", [MAG(window=4), MAL(window=4), AttentionOnly(window=4)], ids=lambda b: b.kind)
def test_the_window_does_not_grow(block: BlockConfig) -> None:
    """Memory does not grow with the length of a record: a state has a fixed largest size."""
    made, x = block_and_input((block, MEMORY))
    _, state = made(x, start(made))
    assert {part.shape[2] for part in state.window} == {3}


def test_memory_reaches_further_than_the_window() -> None:
    """The first of 30 tokens changes the last row of every block with a memory; a window of 4 alone forgot it."""
    for config in (LMM(), MAC(segment=8), MAG(window=4), MAL(window=4), AttentionOnly(window=4)):
        block, x = block_and_input((config, MEMORY))
        changed = x.clone()
        changed[:, 0] = -changed[:, 0]
        before, after = (block(part, start(block))[0][:, -1] for part in (x, changed))
        assert torch.allclose(before, after, rtol=0, atol=1e-12) == isinstance(config, AttentionOnly)
