"""The optimiser of every training: AdamW that spares what is not a matrix of weights."""

import torch
from torch import Tensor, nn

from titans_seq.training.config import Training

# how their names end; learned initial memories and vectors beside them
SPARED = ("persistent", "conv.weight", "norm", "gain", "to_erase", "to_write")


def optimizer(model: nn.Module, config: Training) -> torch.optim.AdamW:
    """AdamW over what is trained; vectors, gates' biases and the learned initial memories do not decay."""
    decayed: list[Tensor] = []
    free: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim < 2 or ".initial." in name or name.endswith(SPARED)
            (free if plain else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95))
