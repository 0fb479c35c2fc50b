"""One training over many processes, its ranks: who takes part, what they tell each other, and what if one is gone.

A rank is noticed to be gone by its heartbeat, a number that each counts up in the store through which they found each
other: it stops with a process that was killed, stopped or cut off, and not with one that has much to do.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from titans_seq.errors import ConfigError, EnvironmentFault, RankFault, TitansError, UsageError, log
from titans_seq.progress import Progress

BEAT = 0.5  # seconds between two beats of a rank
SILENCE = 30.0  # seconds without a beat after which a rank counts as gone
JOINING = 300.0  # seconds in which all ranks have to be there
DOUBT = 5.0  # seconds in which a rank that lives is heard of
LEAVING = 10.0  # seconds that the first rank waits for the others to end

T = TypeVar("T")
Strategy = Literal["auto", "ddp", "fsdp"]


class Place(NamedTuple):
    """Where a process stands among the ranks of a training."""

    rank: int = 0
    size: int = 1  # ranks in all
    local: int = 0  # number among those of its host
    devices: int = 1  # ranks a host
    node: int = 0  # number of its host
    strategy: Literal["ddp", "fsdp"] = "ddp"
    address: str = "127.0.0.1"  # where the store is
    port: int = 0  # 0: any that is free
    served: bool = False  # the store is somebody else's: that of torchrun

    @property
    def starts(self) -> bool:
        """Whether the other ranks are still to be started, by this one."""
        return self.size > 1 and not self.port


def place_of(devices: int = 1, num_nodes: int = 1, strategy: Strategy = "auto", device: str = "cpu") -> Place:
    """The place of this process: as torchrun or SLURM's srun says, else the first of ``devices`` on this host.

    Args:
        devices: ranks a host.
        num_nodes: hosts.
        strategy: ``ddp`` holds all weights on every rank, ``fsdp`` a part; ``auto`` is ``ddp``.
        device: ``cpu`` or ``cuda``.

    Raises:
        ConfigError: if what started the processes started another number of them.
        UsageError: if there are several hosts and nothing that started processes there.
        EnvironmentFault: if there are fewer GPUs.
    """
    asked, way = devices * num_nodes, "fsdp" if strategy == "fsdp" else "ddp"
    given = _by_torchrun() or (_by_slurm() if asked > 1 else None)
    if given is None and num_nodes > 1:
        raise UsageError(
            f"--num-nodes {num_nodes}: each host needs its processes started. Start the command with torchrun or srun."
        )
    place = given or Place(size=devices, devices=devices)
    if given and asked not in (1, place.size):
        raise ConfigError(
            f"--devices {devices} --num-nodes {num_nodes} are {asked} processes, and {place.size} were started. "
            "Give the same numbers to both."
        )
    if device == "cuda" and place.devices > torch.cuda.device_count():
        raise EnvironmentFault(
            f"--devices {place.devices}: this host has {torch.cuda.device_count()} GPUs. Ask for no more."
        )
    return place._replace(strategy=way)  # type: ignore[arg-type]


def _by_torchrun() -> Place | None:
    env = os.environ
    if "TORCHELASTIC_RUN_ID" not in env:
        return None
    rank, size, local, devices, node = (
        int(env[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK")
    )
    served = env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return Place(rank, size, local, devices, node, "ddp", env["MASTER_ADDR"], int(env["MASTER_PORT"]), served)


def _by_slurm() -> Place | None:
    """As srun says; nothing outside of it, as in a batch script or on a terminal."""
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    env = os.environ
    if "SLURM_PROCID" not in env or SLURMEnvironment.job_name() in ("bash", "interactive"):
        return None
    rank, size, local, node = (int(env[f"SLURM_{name}"]) for name in ("PROCID", "NTASKS", "LOCALID", "NODEID"))
    hosts = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_JOB_NODELIST") or env.get("SLURM_NODELIST", "127.0.0.1")
    address = env.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(hosts)
    port = int(env.get("MASTER_PORT") or 15000 + int(env.get("SLURM_JOB_ID", "0")[-4:]))
    return Place(rank, size, local, size // int(env.get("SLURM_NNODES", "1")), node, "ddp", address, port)


class World:
    """The ranks of a training, as one of them sees them; a training of one process is a world of its own."""

    def __init__(self, place: Place = Place()):  # noqa: B008 (it is immutable)
        self.place, self.rank, self.size = place, place.rank, place.size

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes files and tells."""
        return self.rank == 0

    def part(self, count: int) -> range:
        """Which of so many items are this rank's: every one is in one part, and parts stand in the order of ranks."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def shared(self, work: Callable[[], T]) -> T:
        """What the first rank makes of ``work``, on every rank."""
        if self.size == 1:
            return work()
        told = [work() if self.first else None]
        dist.broadcast_object_list(told, 0)
        return told[0]  # type: ignore[return-value]

    def gathered(self, own: T) -> list[T]:
        """What every rank gives, in the order of ranks, on every rank."""
        if self.size == 1:
            return [own]
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, own)
        return parts

    def numbers(self, *own: float) -> np.ndarray:
        """What every rank gives, (size, n) float64, on every rank."""
        device = "cuda" if dist.get_backend() == "nccl" else "cpu"
        mine = torch.tensor(own, dtype=torch.float64, device=device)
        parts = [torch.empty_like(mine) for _ in range(self.size)]
        dist.all_gather(parts, mine)
        return torch.stack(parts).cpu().numpy()

    def agreed(self, caught: int | None) -> int | None:
        """The signal that any rank has caught, on every rank."""
        if self.size == 1:
            return caught
        return int(self.numbers(caught or 0).max()) or None


ALONE = World()


@contextmanager
def joined(place: Place, device: str, child: Sequence[str] = (), job: Any = None) -> Iterator[World]:
    """Take part in a training; where nothing else starts the other ranks, start them.

    Args:
        place: of this process.
        device: ``cpu`` or ``cuda``.
        child: arguments of the Python that runs another rank; it reads its ``place`` and ``job`` as JSON from stdin.
        job: what the other ranks are to do.

    Raises:
        EnvironmentFault: if a rank is killed, stopped or cannot be reached.
        RankFault: if another rank has failed.
    """
    if place.size == 1:
        yield ALONE
        return
    alone, server = (
        place.starts,
        TCPStore(
            place.address, place.port, None, not place.rank and not place.served, timedelta(seconds=JOINING), False
        ),
    )
    place = place._replace(port=server.port)
    children = _started(place, child, job) if alone else {}
    heart = _Heart(place, children)
    try:
        with _as_rank(place):
            _connect(place, device)
            yield World(place)
    except BaseException as error:
        fault = heart.cause(error)
        heart.leave(fault)
        if fault is error:
            raise
        raise fault from error
    else:
        heart.leave(None)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
        if not place.rank:
            heart.wait_for_others()
        heart.end()
        for process in children.values():
            _end(process)


@contextmanager
def _as_rank(place: Place) -> Iterator[None]:
    """Let Lightning start no process, and all but the first rank be silent."""
    quiet, level = Progress.quiet, log.level
    named = {"LOCAL_RANK": str(place.local), "NODE_RANK": str(place.node)}
    before = {name: os.environ[name] for name in named if name in os.environ}
    os.environ |= named
    if place.rank:
        Progress.quiet = True
        log.setLevel("CRITICAL")
    try:
        yield
    finally:
        Progress.quiet = quiet
        log.setLevel(level)
        for name in named:
            del os.environ[name]
        os.environ |= before


def _store(place: Place) -> Store:
    """What the ranks have in common, over a connection of its own."""
    shared = TCPStore(place.address, place.port, None, False, timedelta(seconds=JOINING), False)
    return PrefixStore(f"titans_seq/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", shared)


def _connect(place: Place, device: str) -> None:
    """Make the group of the ranks; hearts notice who is gone, so that no wait for another has to end by itself."""
    if device == "cuda":
        torch.cuda.set_device(place.local)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=_store(place), rank=place.rank, world_size=place.size, timeout=timedelta(days=7)
    )


def _started(place: Place, child: Sequence[str], job: Any) -> dict[int, subprocess.Popen[bytes]]:
    """The other ranks of this host."""
    found = {}
    for rank in range(1, place.size):
        process = subprocess.Popen([sys.executable, *child], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        assert process.stdin is not None
        process.stdin.write(json.dumps({"place": place._replace(rank=rank, local=rank), "job": job}).encode())
        process.stdin.close()
        found[rank] = process
    return found


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(subprocess.TimeoutExpired):
        process.wait(LEAVING)
    process.kill()
    process.wait()


class _Heart:
    """Beats for this rank in the store, and listens to the others."""

    def __init__(self, place: Place, children: dict[int, subprocess.Popen[bytes]]):
        self.place, self.children, self.store = place, children, _store(place)
        self.store.set_timeout(timedelta(seconds=SILENCE))
        self.others = [rank for rank in range(place.size) if rank != place.rank]
        self.gone: set[int] = set()
        self.stopped = threading.Event()
        self.thread = threading.Thread(target=self._beat, daemon=True)
        self.thread.start()

    def leave(self, fault: BaseException | None) -> None:
        """Tell the others how this rank ends."""
        told = [0, ""]
        if fault is not None:
            code = getattr(fault, "exit_code", getattr(fault, "code", 1))
            told = [code, str(fault) if isinstance(fault, TitansError) else f"{type(fault).__name__}: {fault}"]
        with suppress(Exception):  # the first rank is gone, and the store with it
            self.store.set(f"left/{self.place.rank}", json.dumps(told))

    def wait_for_others(self) -> None:
        """Keep the store until each of the others has told how it ends, or is gone."""
        until = time.monotonic() + LEAVING
        while time.monotonic() < until and any(self._left(r) is None for r in self.others if r not in self.gone):
            time.sleep(0.05)

    def end(self) -> None:
        """Beat no more."""
        self.stopped.set()
        self.thread.join()

    def cause(self, error: BaseException) -> BaseException:
        """Why an exchange with the others broke: another rank that failed or is gone; any other error as it is."""
        if isinstance(error, TitansError) or not isinstance(error, RuntimeError):
            return error
        try:
            before, until = self._counts(), time.monotonic() + DOUBT
            while time.monotonic() < until:
                if found := next(filter(None, map(self._fault, self.others)), None):
                    return found
                time.sleep(0.05)
            after = self._counts()
        except Exception:  # there is no store to ask
            return self._silent(0)
        silent = [rank for rank in self.others if before[rank] == after[rank] and self._left(rank) is None]
        return self._silent(silent[0]) if silent else error

    def _fault(self, rank: int) -> TitansError | None:
        """What another rank has failed of, if it told, or died of, if it was started here."""
        left = self._left(rank)
        if left and left[0]:
            return RankFault(left[0], f"Rank {rank} of {self.place.size} has failed: {left[1]}")
        ended = self.children[rank].poll() if rank in self.children else None
        if left is None and ended is not None:
            how = f"was killed by signal {-ended}" if ended < 0 else f"ended with code {ended}"
            return self._silent(rank, how)
        return None

    def _silent(self, rank: int, how: str = "is not heard of any more") -> EnvironmentFault:
        self.gone.add(rank)
        return EnvironmentFault(
            f"Rank {rank} of {self.place.size} {how}. The run is kept at its last point; the same command with "
            "--resume goes on."
        )

    def _left(self, rank: int) -> list[Any] | None:
        """Exit code and message of a rank that has ended; None of one that has not."""
        key = f"left/{rank}"
        found: list[Any] | None = json.loads(self.store.get(key)) if self.store.check([key]) else None
        return found

    def _counts(self) -> dict[int, int]:
        """Beats of the others so far."""
        return {rank: self.store.add(f"beat/{rank}", 0) for rank in self.others}

    def _beat(self) -> None:
        """Beat, and end this process if another has been silent for so long that no exchange will end by itself."""
        heard = dict.fromkeys(self.others, (0, time.monotonic()))
        while not self.stopped.wait(BEAT):
            try:
                self.store.add(f"beat/{self.place.rank}", 1)
                for rank, count in self._counts().items():
                    if count != heard[rank][0]:
                        heard[rank] = count, time.monotonic()
                    most = SILENCE if count else JOINING
                    if time.monotonic() - heard[rank][1] > most and (self._left(rank) or [1])[0]:
                        self._give_up(self._fault(rank) or self._silent(rank))
            except Exception:  # the store is gone, and with it the first rank
                self._give_up(self._silent(0))

    def _give_up(self, fault: TitansError) -> None:
        """End this process, which waits for one that will not come; not if it ends by itself."""
        if self.stopped.wait(LEAVING):
            return
        print(f"error: {fault}", file=sys.stderr, flush=True)
        for process in self.children.values():
            process.kill()
        os._exit(getattr(fault, "exit_code", fault.code))
