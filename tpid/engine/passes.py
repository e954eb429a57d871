"""Driving a pass: weights come from memory, sums from the other ranks, compute goes where it fits."""

from collections.abc import Callable
from typing import Any

from tpid.comm.allreduce import Allreduce
from tpid.compute.forward import NeedBlock, Pass, Reduce
from tpid.engine.compute_calls import ComputeCalls
from tpid.memory.resident import ResidentBlocks
from tpid.model.weights import F32


async def drive(
    walk: Pass, n_tokens: int, blocks: ResidentBlocks[Any], allreduce: Allreduce, calls: ComputeCalls
) -> F32:
    """Run a pass to its end; gives the final hidden states. Raises what the allreduce raises."""
    answer: Any = None
    try:
        while True:
            step = await calls.run(n_tokens, _to_next_reduce(walk, answer, blocks))
            if not isinstance(step, Reduce):
                return step
            answer = await allreduce.reduce(step.step, step.partial)
    finally:
        walk.close()


def _to_next_reduce(walk: Pass, answer: Any, blocks: ResidentBlocks[Any]) -> Callable[[], Reduce | F32]:
    """All compute up to the next exchange, as one call; gives the final hidden states at the end."""

    def step() -> Reduce | F32:
        try:
            need = walk.send(answer)
            while isinstance(need, NeedBlock):
                need = walk.send(blocks.get(need.block))
        except StopIteration as end:
            hidden: F32 = end.value
            return hidden
        return need

    return step
