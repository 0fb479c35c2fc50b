"""What a run, a resume or a state reads may have been put there by somebody else: none of it runs code."""

import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


class Hostile:
    """Unpickled, it makes a file."""

    def __init__(self, file: Path):
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def plain(file: Path, hacked: Path) -> None:
    file.write_bytes(pickle.dumps(Hostile(hacked)))


def inside(file: Path, hacked: Path) -> None:
    """A checkpoint like ours with something more in it."""
    torch.save(torch.load(file, weights_only=True) | {"more": Hostile(hacked)}, file)


def bomb(file: Path, hacked: Path) -> None:
    """A zip archive whose entries do not fit what they say."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Hostile(hacked)))
        archive.writestr("archive/data/0", bytes(10_000_000))


def truncated(file: Path, hacked: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def flipped(file: Path, hacked: Path) -> None:
    """Bits of the description of the tensors, not of a tensor, whose sums nobody keeps inside a run."""
    content = bytearray(file.read_bytes())
    at = content.index(b"optimizer")
    content[at : at + 4] = b"\xff\xff\xff\xff"
    file.write_bytes(bytes(content))


def not_finite(file: Path, hacked: Path) -> None:
    point = torch.load(file, weights_only=True)
    next(iter(point["model"].values())).fill_(torch.nan)
    torch.save(point, file)


@pytest.mark.parametrize("change", [plain, inside, bomb, truncated, flipped], ids=lambda change: change.__name__)
def test_a_hostile_checkpoint_runs_nothing(
    titans: Any, stopped: tuple[list[Any], Path], tmp_path: Path, change: Callable[[Path, Path], None]
) -> None:
    given, run = stopped[0], Path(shutil.copytree(stopped[1], tmp_path / "run"))
    file, hacked = run / "checkpoints" / "last.ckpt", tmp_path / "hacked"
    change(file, hacked)
    told = titans(*given, "--out", run, "--resume", code=5).stderr
    assert str(file) in told and "--overwrite" in told
    assert not hacked.exists() and not (run / "model").exists()


def test_a_checkpoint_that_is_not_finite_is_not_gone_on_from(
    titans: Any, stopped: tuple[list[Any], Path], tmp_path: Path
) -> None:
    given, run = stopped[0], Path(shutil.copytree(stopped[1], tmp_path / "run"))
    not_finite(run / "checkpoints" / "last.ckpt", tmp_path)
    titans(*given, "--out", run, "--resume", code=7)
    assert not (run / "model").exists()
