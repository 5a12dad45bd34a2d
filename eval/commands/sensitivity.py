"""``cpam-bench sensitivity``: what the choice of protocol alone does to a run's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cpam_bench.eval.commands.options import Device, split_names
from cpam_bench.imba.common.places import place
from cpam_bench.imba.errors import UserError


def sensitivity(
    folder: Annotated[Path, typer.Argument(parser=place, metavar="RUN", help="Folder of a run that has been scored.")],
    clip: Annotated[
        list[str] | None,
        typer.Option(metavar="SCORER", help="Another CLIP to score with, as cpam-bench run takes it; may be repeated."),
    ] = None,
    trunks: Annotated[
        str, typer.Option(metavar="A,B,...", help="Trunks of LPIPS: alex, vgg, squeeze.")
    ] = "alex,vgg,squeeze",
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the table goes.", show_default="RUN/sensitivity.csv")
    ] = None,
    device: Device = None,
) -> None:
    """Score the same pictures under every protocol at hand: CLIP models, LPIPS trunks and conventions, resizing.

    Prints how far each method's numbers and ranks move, and what each choice does to the order of the methods. The
    run's own scorer is always among them; scores.csv is left as it is. What cannot be loaded is named.
    """
    from cpam_bench.eval.analysis import sensitivity as choices
    from cpam_bench.eval.commands.main import _console
    from cpam_bench.eval.run.execute import choose_device, quiet

    where = choose_device(device)

    wanted = split_names(trunks)
    if unknown := [name for name in wanted if name not in choices.TRUNKS]:
        raise UserError(f"unknown trunk {unknown[0]!r}; there are: {', '.join(choices.TRUNKS)}")
    quiet()
    found = choices.sensitivity(folder, clip or (), [name for name in choices.TRUNKS if name in wanted], where)
    target = csv or folder / "sensitivity.csv"
    found.write(target)
    _console().print(choices.render(found, f"sensitivity of {folder} to the protocol"))
    typer.echo(f"{target}")
