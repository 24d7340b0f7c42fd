"""Verbs that tell how a run lies on devices and how fast it goes."""

import dataclasses
from typing import Annotated, Any

from tyro.conf import arg

from oxyrec_jax.cli.verb import Verb


@dataclasses.dataclass(frozen=True)
class InspectSharding(Verb):
    """Plan a training run on a mesh: where parameters lie, bytes of each device, what
    a step sends. Nothing is allocated; devices that are not there are simulated.

    Examples:
    $ oxyrec inspect sharding --workdir runs/beauty --mesh data=4,fsdp=2
    $ JAX_PLATFORMS=cpu oxyrec inspect sharding experiments/large.py \\
        --mesh expert=8,table=16 --items 1000000
    """

    items: Annotated[int, arg(
        metavar="INT", help_behavior_hint="(default: those of the work directory)",
        help="Plan for so many made-up items instead.")] = 0

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import sharding_plan
        space = self.space()
        sharding_plan.simulate(space.cfg.mesh)
        return {"sharding": sharding_plan.plan(space, items=self.items)}


@dataclasses.dataclass(frozen=True)
class BenchTrain(Verb):
    """Time training steps of an experiment and say what share of the peak they reach.

    The run keeps nothing. Each figure comes with its meaning.

    Example:
    $ oxyrec bench train --workdir runs/beauty --steps 30 --json
    """

    steps: Annotated[int, arg(help="How many to time, after three to warm up.")] = 20

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import training_speed
        return {"training_speed": training_speed.measure(self.space(), self.steps)}
