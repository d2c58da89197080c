"""Benchmark of position attention's other derivatives: forward mode and second derivatives."""

import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.func import jvp

from scenewise.apps.bench.attention import dense, draw
from scenewise.apps.bench.measure import Row, Run, compare, forward_and_backward
from scenewise.attention import position_attention

PIXELS = (1024, 4096)
Attention = Callable[..., Tensor]


def rows(repeats: int = 5) -> list[Row]:
    """Gradients, tangents and gradient penalties; seconds of CPU time on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    works = {"gradients": forward_and_backward, "tangent": _tangent, "gradient penalty": _penalty}
    table = []
    for pixels in PIXELS:
        inputs = draw(pixels)
        for name, runner in works.items():
            variants = {"dense": runner(dense, inputs), "tiles": runner(position_attention, inputs)}
            work = f"N = {pixels}, D 64, C 512, {name}"
            table += compare(work, variants, repeats, clock=time.process_time)
    torch.set_num_threads(threads)
    return table


def _tangent(function: Attention, inputs: list[Tensor]) -> Run:
    """Output and tangent in forward mode."""
    values = tuple(inputs)

    def run() -> object:
        with torch.no_grad():
            return jvp(function, values, values)

    return run


def _penalty(function: Attention, inputs: list[Tensor]) -> Run:
    """The gradients of a squared norm of gradients, as WGAN-GP and R1 need them."""

    def run() -> object:
        leaves = [x.detach().requires_grad_() for x in inputs]
        total = function(*leaves).square().sum()
        first = torch.autograd.grad(total, leaves, create_graph=True)
        return torch.autograd.grad(torch.stack([x.square().sum() for x in first]).sum(), leaves)

    return run
