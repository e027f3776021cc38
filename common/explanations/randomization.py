"""Whether a map shows what was learned: it must go to pieces when the weights do (Adebayo et al. 2018)."""

import copy
from collections.abc import Callable

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr
from torch import nn

from common.backbones import stages
from common.explanations.localization import mean_with_interval
from common.explanations.maps import embedding_net

OFF = 0.01  # gains that start below this all but switch their block off


def untrained(model: nn.Module, seed: int = 0) -> nn.Module:
    """The same model at random weights: a control that no localization goes without.

    Many networks begin their training with every residual block switched off, by a gain of 0 (Goyal et al. 2017,
    section 5.1) or nearly 0 (LayerScale, Touvron et al. 2021). Such a block hands on what it gets, so that its
    random weights would destroy nothing. Here those gains are 1.

    Args:
        model: has `arguments`, which rebuild it.
        seed: of the weights.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        fresh = type(model)(**model.arguments)
        for name, gain in fresh.named_parameters():
            one_each = gain.ndim and gain.numel() == len(gain)  # channel
            if one_each and not name.endswith("bias") and gain.abs().max() < OFF:
                gain.fill_(1)
    return fresh.to(next(model.parameters()).device).eval()


def randomization_report(model: nn.Module, explain: Callable, seed: int = 0, rounds: int = 500) -> pd.DataFrame:
    """Randomize a model from its head down to its input, one stage more at a time, and watch its maps.

    Args:
        model: holds an `EmbeddingNet` and has `arguments`; a copy is changed.
        explain: model -> maps (B, h, w), always of the same pictures and layer.
        seed: of the random weights.
        rounds: bootstrap draws, of pictures.

    Returns:
        Rows of randomized (the stage that was added last), share (of the backbone's stages that are random), value
        (mean rank correlation of a picture's map with that of the untouched model), low, high, n.
    """
    changed, fresh = copy.deepcopy(model), untrained(model, seed)
    before, backbone = explain(model), embedding_net(changed).backbone
    prefix = next(name for name, module in changed.named_modules() if module is backbone) + "."
    names, weights, rows = stages(backbone), fresh.state_dict(), []
    for count, name in enumerate(["head", *reversed(names)]):
        stage = f"{prefix}{name}." if count else ""
        mine = [key for key in weights if (key.startswith(stage) if stage else not key.startswith(prefix))]
        changed.load_state_dict({key: weights[key] for key in mine}, strict=False)
        alike = [spearmanr(one.ravel(), other.ravel())[0] for one, other in zip(before, explain(changed), strict=True)]
        rows.append({"randomized": name, "share": count / len(names), **mean_with_interval(np.array(alike), rounds)})
    return pd.DataFrame(rows)
