"""What the seven notebooks share: data, backbones, losses, metrics, attacks, explanations and figures."""
