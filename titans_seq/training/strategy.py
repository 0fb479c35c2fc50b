"""How weights lie on the ranks of a training: whole on each (DDP), or a part on each (FSDP)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from titans_seq.training.world import Place

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class ShardedStrategy(DDPStrategy):
    """Each rank keeps a part of weights, gradients and optimiser; a step brings the weights together once.

    Lightning's own FSDP runs on GPUs alone. The model is one unit: what reads a piece again in the backward pass
    holds on to the weights of the forward pass, which must not be given up between the two.
    """

    def configure_ddp(self) -> None:
        """Cut the model into parts, in place of wrapping it."""
        assert self.lightning_module is not None
        model = self.lightning_module.model
        mesh = init_device_mesh(self.root_device.type, (self.world_size,))
        fully_shard(model, mesh=mesh, reshard_after_forward=False)  # type: ignore[arg-type]


def of_trainer(place: Place) -> dict[str, Any]:
    """Arguments of Lightning's Trainer for the devices of a training; the processes are there already."""
    if place.size == 1:
        return {"devices": 1}
    # a parameter may be in no sum of a step, as those of a memory that is not reached; and buckets that stay as they
    # are make a resumed run add in the order of one that was not stopped
    strategy = ShardedStrategy() if place.strategy == "fsdp" else DDPStrategy(find_unused_parameters=True)
    return {
        "devices": place.devices,
        "num_nodes": place.size // place.devices,
        "strategy": strategy,
        "plugins": [LightningEnvironment()],
    }


def whole(tensor: Tensor) -> Tensor:
    """A tensor of which this rank may have a part; every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """All weights by name; every rank must ask."""
    if not isinstance(model, FSDPModule):
        return model.state_dict()
    found: dict[str, Any] = get_model_state_dict(model, options=WHOLE)
    return found


def optimizer_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """All of the optimiser's state; every rank must ask."""
    if isinstance(model, FSDPModule):
        return get_optimizer_state_dict(model, optimizer, options=WHOLE)
    return optimizer.state_dict()


def load_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Put an optimiser where `optimizer_of` found it."""
    if isinstance(model, FSDPModule):
        set_optimizer_state_dict(model, optimizer, state, options=StateDictOptions(full_state_dict=True))
    else:
        optimizer.load_state_dict(state)


@contextmanager
def gathered_weights(model: nn.Module) -> Iterator[None]:
    """Hold all weights for passes of which ranks make different numbers."""
    if not isinstance(model, FSDPModule):
        yield
        return
    model.unshard()
    try:
        yield
    finally:
        model.reshard()
