"""The verb that runs an experiment again and compares its figures with the stated."""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg

from oxyrec_jax.cli.verb import Verb
from oxyrec_jax.errors import InputError

Name = Annotated[str, arg(
    metavar="[NAME]", help_behavior_hint="(optional)", help="A file in experiments, "
    "such as beauty, or the path of one. Without it: those that state figures.")]


@dataclasses.dataclass(frozen=True)
class Reproduce(Verb):
    """Run an experiment again, all seeds, and tell whether its figures come out.

    An experiment states its figures beside its code (EXPECTED). They are reproduced
    where a test of the difference of means over seeds, adjusted for how many figures a
    table has, finds none; the table shows every difference. Exit code 0: reproduced, 1:
    not, by how much stands in the last line. Killed and started again, it continues;
    the tables, reproduction.md, lie in the work directory (runs/reproduce/NAME unless
    --workdir says otherwise). --set is for what moves no figure: where the data lie.

    Examples:
    $ oxyrec reproduce
    $ oxyrec reproduce quickstart
    $ oxyrec reproduce beauty --set data.path=data/amazon14_beauty
    $ oxyrec reproduce instructions --table placement --mesh data=4
    $ oxyrec reproduce semantic_ids --toy
    """

    experiment: Positional[Name] = ""
    workdir: Annotated[pathlib.Path | None, arg(
        metavar="FOLDER", help_behavior_hint="(default: runs/reproduce/NAME)",
        help="Where its runs and tables lie.")] = None  # type: ignore[assignment]
    table: Annotated[str, arg(
        metavar="NAME", help_behavior_hint="(default: all)",
        help="One table of the experiment.")] = ""
    toy: Annotated[FlagCreatePairsOff[bool], arg(
        help="Two rows in about a minute: tries the code, compares nothing.")] = False

    def work(self) -> dict[str, Any]:
        from oxyrec_jax import reproduction
        folder = pathlib.Path("experiments")
        if not self.experiment:
            return {"experiments": _listed(folder)}
        path = (pathlib.Path(self.experiment) if self.experiment.endswith(".py") else
                folder / f"{self.experiment}.py")
        name = f"{path.stem}-toy" if self.toy else path.stem
        workdir = self.workdir or pathlib.Path("runs") / "reproduce" / name
        return reproduction.reproduce(path, workdir, table=self.table, toy=self.toy,
                                      settings=(*self.set, *self.layout()))

    def code(self, found: Mapping[str, Any]) -> int:
        return int(found.get("reproduced") is False)


def _listed(folder: pathlib.Path) -> dict[str, dict[str, str]]:
    """Table to what it holds, of every experiment that states figures."""
    from oxyrec_jax import stated
    if not folder.is_dir():
        raise InputError("no folder experiments here; run this in a checkout, or give "
                         "the path of an experiment file")
    found = {}
    for path in sorted(folder.glob("*.py")):
        if stated.EXPECTED in path.read_text("utf-8"):
            found[path.stem] = {
                table: f"{len(rows)} rows, {sum(map(len, rows.values()))} figures"
                for table, rows in stated.stated(path).items()}
    return found
