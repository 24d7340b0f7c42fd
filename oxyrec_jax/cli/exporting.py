"""The verb that makes an artefact for processes without this package."""

import dataclasses
import pathlib
from typing import Annotated, Any

from tyro.conf import arg

from oxyrec_jax.cli.verb import Verb


@dataclasses.dataclass(frozen=True)
class Export(Verb):
    """Write the trained search as a folder that JAX and NumPy alone can run.

    Encoder, decoder and beam search as StableHLO for several platforms, parameters and
    catalogue as arrays, examples with their answers, digests of everything, and run.py,
    which answers requests from the folder (docs/decoding.md). The first seed's best
    parameters and the catalogue as it is now.

    Examples:
    $ oxyrec export --workdir runs/quickstart --out artefact
    $ python artefact/run.py --check
    $ python artefact/run.py --items item-0000003 item-0000040 --k 5
    $ oxyrec export --workdir runs/shop --platforms cuda --batches 1 8 32 --set beams=50
    """

    out: Annotated[pathlib.Path | None, arg(
        metavar="FOLDER", help_behavior_hint="(default: export in the work directory)",
        help="Where the artefact shall stand; an older one there is replaced.")] = None
    platforms: Annotated[tuple[str, ...], arg(
        metavar="NAME", help="What it shall run on: cpu, cuda, rocm, tpu.")] = (
            "cpu", "cuda", "tpu")
    batches: Annotated[tuple[int, ...], arg(
        metavar="INT", help="Sizes of a batch; a program for each.")] = (1, 8)

    def work(self) -> dict[str, Any]:
        from oxyrec_jax.export import artefact
        space = self.space()
        return artefact.export(space, self.out or space.folder / "export",
                               platforms=self.platforms, batches=self.batches)
