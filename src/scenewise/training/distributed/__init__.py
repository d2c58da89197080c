"""Training on several processes: sharded weights, and synchronised batch norm on CPUs."""
