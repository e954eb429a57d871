"""Driving a pass: weights come from memory or disk, sums from the other ranks, compute goes where it fits."""

from collections.abc import Callable
from functools import partial
from typing import Any

from tpid.comm.allreduce import Reducer
from tpid.compute.forward import Pass, Reduce
from tpid.engine.compute_calls import ComputeCalls
from tpid.memory.weights import Weights
from tpid.model.weights import F32


async def drive(
    walk: Pass, weights: Weights[Any], allreduce: Reducer, calls: ComputeCalls, *, n_blocks: int, n_tokens: int
) -> F32:
    """Run a pass to its end; gives the final hidden states. Raises what the allreduce raises, and LoadError.

    The first `n_blocks` weights are those of the blocks in the order of the walk. A block is leased until its compute
    has ended, also where the pass is cancelled meanwhile.
    """
    answer: Any = None
    try:
        for index in range(n_blocks):
            async with weights.lease(index) as prepare:
                step = await calls.run(
                    n_tokens, partial(_compute, walk, answer, prepare), loop_is_free=not weights.streams
                )
            answer = await allreduce.reduce(step.step, step.partial)
        return _finish(walk, answer)
    finally:
        walk.close()


def _compute(walk: Pass, answer: Any, prepare: Callable[[], Any]) -> Reduce:
    """From one exchange to the next."""
    walk.send(answer)
    step = walk.send(prepare())
    if not isinstance(step, Reduce):
        raise TypeError(f"a pass asked for {step} in the middle of a block")
    return step


def _finish(walk: Pass, answer: Any) -> F32:
    try:
        need = walk.send(answer)
    except StopIteration as end:
        hidden: F32 = end.value
        return hidden
    raise TypeError(f"a pass asked for {need} after its last block")
