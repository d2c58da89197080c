"""The networks that take the tiny backbone."""

from scenewise.models.zoo import NETWORKS

ON_TINY = sorted(name for name, network in NETWORKS.items() if not network.layers)
