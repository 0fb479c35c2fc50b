"""Laws of backbones that read whole sequences: from both ends, and equivariant under the reverse complement."""

from itertools import product
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from tests.conftest import thinned
from titans_seq.backbone import Backbone, BackboneConfig
from titans_seq.blocks import LMM, MAC, MAG, MAL, AttentionOnly, BlocksConfig, Direction, Hybrid, Whole
from titans_seq.checkpoint import SequenceModel, load_backbone, load_pretrained, save_pretrained
from titans_seq.embedding import PAD, Patches, Turn, other_strand
from titans_seq.errors import ModelError
from titans_seq.memory import MemoryConfig
from titans_seq.tasks.classification import Classification
from titans_seq.tasks.masked import MaskedLanguageModel

EXACT = {"rtol": 1e-10, "atol": 1e-10}  # float64, entries of order 1
BLOCKS = [LMM(), MAC(segment=8), MAG(window=5), MAL(window=5), AttentionOnly(), AttentionOnly(window=5), Hybrid()]
PAPER = MAC(segment=8, mode="paper")
DELTA = MemoryConfig.model_validate({"preset": "gated_deltanet", "chunk_size": 8})
WIDTH, LENGTH = 8, 30


def named(value: Any) -> str:
    return str(value) if isinstance(value, str | bool) else "-".join(map(str, value.model_dump().values()))


every_block = pytest.mark.parametrize("block", [*BLOCKS, PAPER], ids=named)
every_block_and_direction = pytest.mark.parametrize(
    ("block", "direction"), list(product([*BLOCKS, PAPER], get_args(Direction))), ids=named
)
every_backbone = pytest.mark.parametrize(
    ("block", "direction", "equivariant"),
    thinned(product([*BLOCKS, PAPER], get_args(Direction), [False, True])),
    ids=named,
)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def config(
    block: BlocksConfig, direction: Direction = "both", equivariant: bool = False, **more: Any
) -> BackboneConfig:
    given = {"width": WIDTH, "heads": 2, "depth": 2, "memory": MemoryConfig(chunk_size=8)} | more
    return BackboneConfig(block=block, direction=direction, equivariant=equivariant, **given)


def tokens(batch: int = 2, length: int = LENGTH) -> Tensor:
    return torch.randint(0, 5, (batch, length))


def rows(backbone: Backbone, x: Tensor) -> Tensor:
    return backbone(x)[0]


def padded(records: list[Tensor]) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(records, batch_first=True, padding_value=PAD)


def test_every_block_is_under_test() -> None:
    assert {type(block) for block in BLOCKS} == set(get_args(get_args(BlocksConfig)[0]))


# --- turning


def test_turning_twice_is_nothing_and_padding_stays() -> None:
    x = torch.tensor([[0, 1, 2, 3], [2, 4, PAD, PAD], [PAD] * 4])
    turn = Turn(x)
    assert turn(x).tolist() == [[3, 2, 1, 0], [4, 2, PAD, PAD], [PAD] * 4]
    assert other_strand(x).tolist() == [[0, 1, 2, 3], [4, 1, PAD, PAD], [PAD] * 4]
    values = torch.randn(3, 4, 2, dtype=torch.float64, requires_grad=True)
    assert torch.equal(turn(turn(values)), values)
    assert torch.autograd.gradcheck(turn, values)
    assert torch.equal(Turn(values)(values), values.flip(1))


# --- from both ends


@every_block
def test_every_row_sees_both_sides(block: BlocksConfig) -> None:
    backbone = Backbone(config(block)).double()
    x = tokens()
    before = rows(backbone, x)
    for changed_at in (0, 14, LENGTH - 1):
        changed = x.clone()
        changed[:, changed_at] = (changed[:, changed_at] + 1) % 4
        moved = (rows(backbone, changed) - before).abs().amax((0, 2))
        reach = 4 * 2 if isinstance(block, AttentionOnly) and block.window else LENGTH  # 4 rows a side and block
        near = (torch.arange(LENGTH) - changed_at).abs() <= reach
        assert (moved[near] > 1e-9).all() and (moved[~near] < 1e-12).all()
    assert not config(block).causal


@every_backbone
def test_records_of_any_length_in_one_batch_are_read_as_if_alone(
    block: BlocksConfig, direction: Direction, equivariant: bool
) -> None:
    made = config(block, direction, equivariant)
    backbone = Backbone(made).double()
    records = [torch.randint(0, 5, (n,)) for n in (1, 7, 8, 30, 33)]
    if not made.padded:  # MAC as printed looks ahead inside a segment, so that it is given records of one length
        records = [record[:1] for record in records]
    together = rows(backbone, padded(records))
    for found, record in zip(together, records, strict=True):
        torch.testing.assert_close(found[: len(record)], rows(backbone, record[None])[0], **EXACT)


@every_block
@pytest.mark.parametrize("memory", [MemoryConfig(chunk_size=8), DELTA], ids=["deep", "delta"])
def test_a_layer_is_the_sum_of_a_mixer_from_each_end(block: BlocksConfig, memory: MemoryConfig) -> None:
    both = Backbone(config(block, memory=memory)).double().blocks[1].mixer
    x = torch.randn(2, 19, WIDTH, dtype=torch.float64)

    def alone(mixer: Any, x: Tensor) -> Tensor:
        y: Tensor = mixer(x, mixer.initial_state(2))[0]
        return y

    y, _ = both(x, Whole(Turn(x), 8))
    torch.testing.assert_close(y, alone(both.ahead, x) + alone(both.back, x.flip(1)).flip(1), **EXACT)
    # left is told from right: with the same memory at both ends it would not be
    assert (both(x.flip(1), Whole(Turn(x), 8))[0] - y.flip(1)).abs().max() > 1e-3


@every_backbone
def test_gradients_reach_every_parameter_which_are_saved_once(
    block: BlocksConfig, direction: Direction, equivariant: bool
) -> None:
    backbone = Backbone(config(block, direction, equivariant)).double()
    y = rows(backbone, tokens(length=33))
    (y * torch.randn_like(y)).sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-9, f"{name} is dead"
    saved = backbone.state_dict()
    assert sum(tensor.numel() for tensor in saved.values()) == sum(p.numel() for p in backbone.parameters())
    again = Backbone(backbone.config).double()
    again.load_state_dict(saved)
    assert torch.equal(rows(again, x := tokens()), rows(backbone, x))


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.kind)
def test_in_pieces_and_read_again_it_is_the_same(block: BlocksConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory use is that of a piece in each direction; outputs and slopes are those of one pass, ties too."""
    backbone, x = Backbone(config(block)).double(), padded([torch.randint(0, 5, (n,)) for n in (33, 20)])

    def slopes() -> list[Tensor]:
        y = rows(backbone, x)
        return [y.detach(), *torch.autograd.grad(y[x != PAD].square().sum(), list(backbone.parameters()))]

    whole = slopes()
    monkeypatch.setattr("titans_seq.pieces.PIECE", 8)
    backbone.recompute = True
    for ours, theirs in zip(slopes(), whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9 * max(1.0, float(theirs.abs().max())))


def test_a_sequence_cannot_be_gone_on_with() -> None:
    backbone = Backbone(config(LMM()))
    _, state = backbone(tokens())
    with pytest.raises(ValueError, match=r"cannot go on after 30 tokens: give whole sequences, or set direction"):
        backbone(tokens(), state)
    assert backbone(tokens(), backbone.initial_state(2))[1].position == LENGTH


def test_patches_are_read_from_both_ends_too() -> None:
    backbone = Backbone(config(MAG(), embedding=Patches(features=3))).double()
    x = torch.randn(2, 9, 3, dtype=torch.float64)
    changed = x.clone()
    changed[:, -1] += 1
    assert ((rows(backbone, changed) - rows(backbone, x)).abs().amax((0, 2)) > 1e-9).all()
    with pytest.raises(ValidationError, match="a series has none"):
        config(MAG(), equivariant=True, embedding=Patches(features=3))


# --- equivariance


@every_block_and_direction
def test_the_other_strand_has_the_rows_turned_and_halves_swapped(block: BlocksConfig, direction: Direction) -> None:
    """f(rc x) = rc f(x) for hidden rows and for the bases of a masked language model; with records of any length."""
    made = config(block, direction, equivariant=True)
    backbone = Backbone(made).double()
    x = padded([torch.randint(0, 5, (n,)) for n in ((30, 21, 1) if made.padded else (30, 30))])
    own, other = rows(backbone, x), rows(backbone, other_strand(x))
    turn, real = Turn(x), x != PAD
    torch.testing.assert_close(other[real], turn(own.roll(WIDTH, -1))[real], **EXACT)
    head = MaskedLanguageModel().head(WIDTH).double()
    torch.testing.assert_close(head.bases(other)[real], turn(head.bases(own).flip(-1))[real], **EXACT)


@every_block_and_direction
def test_both_strands_get_the_same_prediction(block: BlocksConfig, direction: Direction) -> None:
    made = config(block, direction, equivariant=True)
    model = SequenceModel(made, Classification(classes=("a", "b"))).double().eval()
    x = padded([torch.randint(0, 5, (n,)) for n in ((30, 21, 1) if made.padded else (30, 30))])
    torch.testing.assert_close(model({"tokens": other_strand(x)}), model({"tokens": x}), **EXACT)
    plain = SequenceModel(made.model_copy(update={"equivariant": False}), model.task).double().eval()
    plain.load_state_dict(model.state_dict())
    long = x[:2, :21]
    assert (plain({"tokens": other_strand(long)}) - plain({"tokens": long})).abs().max() > 1e-6
    torch.testing.assert_close(
        plain.of_both_strands({"tokens": other_strand(long)}), plain.of_both_strands({"tokens": long}), **EXACT
    )
    # strands meet in the head alone, and this one is linear: what is averaged afterwards is what was averaged before
    torch.testing.assert_close(plain.of_both_strands({"tokens": x}), model({"tokens": x}), **EXACT)


# --- checkpoints


@pytest.mark.parametrize("block", BLOCKS, ids=lambda b: b.kind)
def test_a_checkpoint_gives_the_model_back(block: BlocksConfig, tmp_path: Any) -> None:
    model = SequenceModel(config(block, equivariant=True), MaskedLanguageModel()).eval()
    save_pretrained(model, tmp_path / "model")
    again = load_pretrained(str(tmp_path / "model"))
    assert torch.equal(rows(again.backbone, x := tokens()), rows(model.backbone, x))
    # a classifier starts from it, and may read one strand or both
    for equivariant in (True, False):
        tuned = SequenceModel(config(block, equivariant=equivariant), Classification(classes=("a", "b")))
        load_backbone(tuned, str(tmp_path / "model"))
    forward = SequenceModel(config(block, "forward"), Classification(classes=("a", "b")))
    with pytest.raises(ModelError, match="cannot be used here: direction both there, forward here"):
        load_backbone(forward, str(tmp_path / "model"))
