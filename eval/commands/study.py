"""``cpam-bench study``: the user study of Section 5.5."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cpam_bench.eval.commands.options import finite
from cpam_bench.imba.common.places import place
from cpam_bench.imba.errors import UserError

# What is heavy is imported within the commands, so that --help comes at once.
if TYPE_CHECKING:
    import pandas as pd

    from cpam_bench.eval.study.means import Means

app = typer.Typer(no_args_is_help=True, help="Design a user study, collect it in a browser, aggregate it into Table 3.")

_Seed = Annotated[int, typer.Option(help="Seed.")]
_Study = Annotated[Path, typer.Argument(help="The study's folder, made by `study init`.")]


@app.command()
def init(
    runs: Annotated[
        list[Path], typer.Argument(parser=place, metavar="RUN...", help="Run folders whose edits are to be rated.")
    ],
    out: Annotated[Path, typer.Option(help="The study's folder; must not be there yet.")],
    raters: Annotated[int, typer.Option(min=1, help="Number of raters.")] = 20,
    images: Annotated[int | None, typer.Option(min=1, help="Samples a method; default 50, or all if fewer.")] = None,
    methods: Annotated[str | None, typer.Option(help="Methods, separated by spaces; default every editor.")] = None,
    plan: Annotated[Path | None, typer.Option(help="TOML file with questions and scale; default the paper's.")] = None,
    repeats: Annotated[int, typer.Option(min=0, help="Pictures shown to each rater a second time.")] = 0,
    controls: Annotated[int, typer.Option(min=0, help="Obvious pictures shown to each rater as attention checks.")] = 0,
    seconds: Annotated[
        float, typer.Option(callback=finite, min=0.1, help="Seconds a picture takes, for the estimate.")
    ] = 12.0,
    seed: _Seed = 0,
) -> None:
    """Design a study: who sees which edit when, and the raters' personal links."""
    from cpam_bench.eval.study import design

    asked = design.read_plan(plan)
    made = design.init(runs, out, raters, images, methods.split() if methods else None, asked, repeats, controls, seed)
    each = made.pictures - made.extra
    echo = typer.echo
    echo(
        f"{made.raters} raters x {len(made.methods)} methods x {made.images} images x {made.questions} questions "
        f"= {made.ratings:,} ratings ({made.raters * each:,} pictures, {each:,} a rater)"
    )
    if made.extra:
        more = made.raters * made.extra
        echo(f"and {repeats} repeats and {controls} controls a rater: {more * made.questions:,} ratings more")
    minutes = made.pictures * seconds / 60
    echo(
        f"about {minutes:.0f} minutes a rater at {seconds:g} s a picture (an assumption), "
        f"{minutes * made.raters / 60:.1f} hours in all"
    )
    echo(f"methods: {', '.join(made.methods)}")
    echo(
        f"balance: a method's share of a round is within {100 * made.balance['rounds']:.1f} % of even, "
        f"its mean place within {100 * made.balance['place']:.1f} % of the middle"
    )
    if made.left_out:
        samples = sorted({sample for _, sample in made.left_out})
        echo(f"left out, for want of an edit by every method: {len(samples)} samples ({', '.join(samples[:5])}...)")
    for damage in made.damaged:
        echo(f"not used: {damage}")
    echo(f"personal links: {out / 'links.csv'} (give each rater one, and keep the file to yourself)")
    echo(f"next: cpam-bench study serve {out}")


@app.command()
def serve(
    study: _Study,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
) -> None:
    """Serve a study's web page until interrupted."""
    with _extra():
        from cpam_bench.eval.study import server
    from cpam_bench.eval.study import database

    database.connect(study).close()
    typer.echo(f"http://{host}:{port}/r/...: the personal links are in {study / database.LINKS}")
    if host not in ("127.0.0.1", "localhost", "::1"):
        typer.echo("put a proxy with TLS in front of it: the links are the raters' only key")
    server.serve(study, host, port)


@app.command()
def aggregate(
    study: Annotated[Path, typer.Argument(help="A study's folder, or a CSV file of ratings.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the tables.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="TOML file that says how to read another study's CSV.")] = None,
    beside: Annotated[
        Path | None, typer.Option(help="A table of means, such as the published one, to show beside.")
    ] = None,
    drop: Annotated[list[str] | None, typer.Option(help="A rater to leave out; may be repeated.")] = None,
    drop_flagged: Annotated[bool, typer.Option("--drop-flagged", help="Leave out every flagged rater.")] = False,
    interval: Annotated[str, typer.Option(help="t or bootstrap.")] = "t",
    seed: _Seed = 0,
) -> None:
    """Aggregate ratings into Table 3, with intervals, agreement, tests and flags."""
    with _extra():
        from cpam_bench.eval.study import aggregate as statistics
    from cpam_bench.eval.study import means as tables
    from cpam_bench.eval.study import ratings
    from cpam_bench.eval.tables.write import latex, markdown

    kind: Literal["t", "bootstrap"]
    if interval == "t":
        kind = "t"
    elif interval == "bootstrap":
        kind = "bootstrap"
    else:
        raise UserError(f"--interval {interval} is neither t nor bootstrap")
    other = tables.read_means(beside, "published") if beside else None
    if study.is_file() and not mapping and _is_means(study):
        means = tables.read_means(study)
        _print_means([means] if other is None else [other, means])
        if out:
            shown = [means] if other is None else [other, means]
            ratings.write_csv(tables.csv(means), out / "table3.csv")
            table = tables.beside(shown, "Mean opinion scores.", [], tables.csv(means))
            ratings.write_text(markdown(table), out / "table3.md")
            ratings.write_text(latex(table), out / "table3.tex")
        return
    report = statistics.aggregate(ratings.read(study, mapping), drop or (), drop_flagged, kind, seed=seed)
    _print_means([report.table] if other is None else [other, report.table])
    agreement = report.agreement
    if not agreement["why"].any():
        agreement = agreement.drop(columns="why")
    _print_frame("Agreement (Krippendorff's alpha, ordinal)", agreement)
    close = report.pairs.assign(
        verdict=[
            ("a" if d > 0 else "b") if p < 0.05 else ""
            for d, p in zip(report.pairs["difference"], report.pairs["p_holm"], strict=True)
        ]
    )
    if len(close) > 12:
        told = int((close["p_holm"] < 0.05).sum())
        typer.echo(f"{told} of {len(close)} pairs of methods differ (p < 0.05, Holm); all are in pairs.csv with --out")
    else:
        _print_frame("Pairs (paired by rater and image, Holm within a question)", close)
    flagged = report.raters[report.raters["flags"] != ""]
    _print_frame(f"Raters flagged: {len(flagged)} of {len(report.raters)}", flagged[["rater", "flags"]])
    for note in report.notes:
        typer.echo(f"note: {note}")
    if out:
        for file in statistics.write(report, out, other):
            typer.echo(f"wrote {file}")


@app.command()
def correlate(
    study: Annotated[Path, typer.Argument(help="A study's folder, or a CSV file of ratings.")],
    runs: Annotated[list[Path], typer.Argument(parser=place, metavar="RUN...", help="Run folders with scores.")],
    out: Annotated[Path | None, typer.Option(help="CSV file for the correlations.")] = None,
    mapping: Annotated[Path | None, typer.Option(help="TOML file that says how to read another study's CSV.")] = None,
    draws: Annotated[int, typer.Option(min=0, help="Bootstrap replicates.")] = 200,
    seed: _Seed = 0,
) -> None:
    """How well each automatic metric follows the raters."""
    from cpam_bench.eval.study import correlate as correlation
    from cpam_bench.eval.study import ratings

    table = correlation.correlate(ratings.read(study, mapping), correlation.read_scores(runs), draws, seed)
    shown = table[table[["spearman", "kendall"]].notna().any(axis=1)]
    _print_frame("Rank correlation with the raters", shown)
    if empty := len(table) - len(shown):
        typer.echo(
            f"{empty} combinations have none: constant, or known for fewer than three points; --out has them all"
        )
    if out:
        ratings.write_csv(table, out)
        typer.echo(f"wrote {out}")


@app.command()
def simulate(
    means: Annotated[
        Path | None, typer.Option(help="Table of true means; default 4 questions, 9 methods 0.2 apart.")
    ] = None,
    raters: Annotated[int, typer.Option(min=1)] = 20,
    images: Annotated[int, typer.Option(min=1)] = 50,
    out: Annotated[Path | None, typer.Option(help="Write one study's ratings to this CSV file.")] = None,
    coverage: Annotated[
        int, typer.Option(min=0, help="Simulate so many studies and count how often intervals hold.")
    ] = 0,
    power: Annotated[
        float, typer.Option(callback=finite, min=0, help="Say how many raters show this difference.")
    ] = 0.0,
    careless: Annotated[int, typer.Option(min=0, help="Of the raters, so many answer without looking.")] = 0,
    missing: Annotated[float, typer.Option(callback=finite, min=0, max=0.9, help="Share of ratings missing.")] = 0.0,
    bootstrap: Annotated[int, typer.Option(min=0, help="Coverage of the percentile bootstrap with so many draws.")] = 0,
    sd_rater: Annotated[float, typer.Option(callback=finite, min=0, help="How much raters differ.")] = 0.5,
    sd_rater_method: Annotated[float, typer.Option(callback=finite, min=0, help="... from method to method.")] = 0.3,
    sd_image: Annotated[float, typer.Option(callback=finite, min=0, help="How much images differ.")] = 0.5,
    sd_image_method: Annotated[float, typer.Option(callback=finite, min=0, help="... from method to method.")] = 0.5,
    sd_noise: Annotated[float, typer.Option(callback=finite, min=0, help="What is left.")] = 0.9,
    seed: _Seed = 0,
) -> None:
    """Simulate raters, to plan a study or to test the statistics against a known truth."""
    import numpy as np

    with _extra():
        from cpam_bench.eval.study import simulate as simulation
    from cpam_bench.eval.study import means as tables
    from cpam_bench.eval.study import ratings

    if not (out or coverage or power):
        raise UserError("say what for: --out FILE.csv (one study), --coverage 500, or --power 0.2")
    if careless > raters:
        raise UserError(f"{careless} careless raters of {raters}")
    spread = simulation.Spread(sd_rater, sd_rater_method, sd_image, sd_image_method, sd_noise)
    if means:
        truth = tables.read_means(means)
    else:
        steps = np.repeat(2.7 + 0.2 * np.arange(9)[:, None], 4, axis=1)
        names = ["object_retention", "background_retention", "realistic", "satisfaction"]
        truth = tables.Means("truth", [f"method {i + 1}" for i in range(9)], names, steps)
    if not ((truth.mean > simulation.SCALE[0]) & (truth.mean < simulation.SCALE[-1])).all():
        raise UserError("the true means must lie within the scale, 1 to 6")
    if out:
        rng = np.random.default_rng(seed)
        values = simulation.draw(truth.mean, raters, images, rng, spread)
        values = simulation.add_careless(values, careless, rng)
        table = simulation.as_table(values, truth.methods, truth.questions, careless)
        if missing:
            table = table[rng.random(len(table)) >= missing]
        ratings.write_csv(table, out)
        typer.echo(f"wrote {out}: {len(table):,} simulated ratings")
    if coverage:
        found = simulation.coverage(
            truth.mean, coverage, raters, images, spread, missing=missing, bootstrap=bootstrap, seed=seed
        )
        kind = f"percentile bootstrap, {bootstrap} draws" if bootstrap else "two-way t"
        typer.echo(f"{coverage} studies of {raters} raters and {images} images; nominal 95 %; {kind}")
        typer.echo(
            f"means: {100 * found.means:.1f} % held "
            f"(single cells {100 * found.lowest:.1f} to {100 * found.highest:.1f} %)"
        )
        typer.echo(f"paired differences (two-way t): {100 * found.differences:.1f} % held")
        typer.echo(f"equal methods told apart at p < 0.05: {100 * found.false_alarms:.1f} %")
        typer.echo(f"mean width of the means' intervals: {found.width:.3f}")
    if power:
        numbers = [5, 10, 15, 20, 30, 40, 60, 80]
        _print_frame(
            f"Power for a difference of {power:g}", simulation.power(power, numbers, images, spread=spread, seed=seed)
        )


@app.command()
def erase(study: _Study, rater: Annotated[str, typer.Argument(help="The rater's label, such as r07.")]) -> None:
    """Remove a rater and all of their ratings from a study."""
    from cpam_bench.eval.study import database

    count = database.erase(study, rater)
    typer.echo(f"{rater} is erased, with {count} ratings and the personal link")


@app.command()
def export(study: _Study, out: Annotated[Path, typer.Option(help="CSV file.")]) -> None:
    """Write a study's ratings under pseudonyms, without links, times of day or orders."""
    from cpam_bench.eval.study import ratings

    table = ratings.export(study)
    ratings.write_csv(table, out)
    typer.echo(f"wrote {out}: {len(table):,} ratings by {table['rater'].nunique()} raters")


@contextmanager
def _extra() -> Iterator[None]:
    """Say what to install when a package of the optional extra is missing."""
    try:
        yield
    except ImportError as error:
        raise UserError(f"the study needs the package {error.name}: pip install 'cpam-bench[study]'") from error


def _is_means(path: Path) -> bool:
    """Whether a CSV file is a table of means and not of ratings."""
    try:
        with path.open("rb") as file:
            head = file.readline().decode("utf-8", "replace").strip().split(",")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    return head[0] == "method" and not {"rater", "rating"} & set(head)


def _print_means(shown: list[Means]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from cpam_bench.eval.study import means as tables

    console = Console()
    for means in shown:
        table = Table(
            "Method", *[tables.label(q) for q in means.questions], title=f"Mean opinion scores: {means.title}"
        )
        styles = {"best": "bold", "second": "underline", "": ""}
        for method, row in zip(means.methods, tables.cells(means), strict=True):
            table.add_row(Text(method), *(Text.assemble((cell.text, styles[cell.mark]), cell.after) for cell in row))
        console.print(table)


def _shown(value: object) -> str:
    if not isinstance(value, float):
        return str(value)
    return "–" if value != value else f"{value:.3g}".replace("-", "−")


def _print_frame(title: str, frame: pd.DataFrame) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*[str(c).replace("_", " ") for c in frame.columns], title=title, title_justify="left")
    for row in frame.itertuples(index=False):
        table.add_row(*[_shown(value) for value in row])
    Console().print(table if len(frame) else title)
