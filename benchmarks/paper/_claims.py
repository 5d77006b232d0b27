"""What the claims share: options, trainings that need not be repeated, and pages with figures."""

import argparse
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks._measure import machine, markdown
from benchmarks.paper._fashion import DIRECTORY, Fashion, load_fashion
from benchmarks.paper._training import make_trainer, Outcome, Setting


# Okabe and Ito's colors, which people tell apart whose eyes see fewer.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#6B7280")


class Options(NamedTuple):
    """How a claim is looked at.

    Attributes:
        quick: Whether only to see that it runs: little data, one seed, nothing to conclude from.
        seeds: Of the trainings.
        data: Where Fashion-MNIST is.
        out: Where pages and figures go.
        runs: Where trainings that ended are noted.
    """

    quick: bool
    seeds: tuple[int, ...]
    data: Path
    out: Path
    runs: Path


def parse_options(description: str | None, *, seeds: int = 3) -> Options:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="see that it runs, in a minute")
    parser.add_argument("--seeds", type=int, default=seeds, help="how many")
    parser.add_argument("--data", type=Path, default=DIRECTORY, help="files of Fashion-MNIST")
    parser.add_argument("--out", type=Path, help="default: docs/paper; runs/paper when quick")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/paper"), help="what is done already"
    )
    given = parser.parse_args()
    count = 1 if given.quick else given.seeds
    out = given.out or (given.runs if given.quick else Path("docs/paper"))
    return Options(given.quick, tuple(range(count)), given.data, out, given.runs)


def load_data(options: Options) -> Fashion:
    """Loads all of Fashion-MNIST, or when quick a little."""
    if not options.quick:
        return load_fashion(options.data)
    return Fashion(
        *(type(split)(*(part[:500] for part in split)) for split in load_fashion(quick=True))
    )


def train_all(
    name: str, settings: Mapping[Any, Setting], options: Options
) -> dict[Any, list[Outcome]]:
    """Trains every setting with every seed, but what is noted already.

    Returns:
        The outcomes of each setting, by seed.
    """
    data = load_data(options)
    noted = options.runs / f"{name}{'-quick' if options.quick else ''}.jsonl"
    noted.parent.mkdir(parents=True, exist_ok=True)
    lines = noted.read_text().splitlines(keepends=True) if noted.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    noted.write_text("".join(whole))  # a line may have been cut off
    done = {(record.pop("key"), record.pop("seed")): record for record in map(json.loads, whole)}
    outcomes: dict[Any, list[Outcome]] = {}
    for label, setting in settings.items():
        train = None
        outcomes[label] = []
        for seed in options.seeds:
            if (setting.key, seed) not in done:
                train = train or make_trainer(setting, data)
                record = train(seed)[0]._asdict()
                with noted.open("a") as file:
                    file.write(json.dumps({"key": setting.key, "seed": seed, **record}) + "\n")
                done[setting.key, seed] = record
            outcomes[label].append(Outcome(**done[setting.key, seed]))
            print(name, label, f"seed {seed}:", outcomes[label][-1], flush=True)
    return outcomes


def mean_and_spread(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """Mean of the accuracies, and their standard deviation."""
    accuracies = [outcome.accuracy for outcome in outcomes]
    return statistics.mean(accuracies), statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0


def cell(outcomes: Sequence[Outcome]) -> str:
    """Mean and standard deviation in percent, and how many runs diverged."""
    mean, spread = mean_and_spread(outcomes)
    lost = sum(not outcome.finite for outcome in outcomes)
    return f"{100 * mean:.1f} ± {100 * spread:.1f}" + (
        f" ({lost} of {len(outcomes)} diverged)" if lost else ""
    )


def errorbar(
    axes: Any, x: Sequence[float], points: Sequence[Sequence[Outcome]], label: str, color: str
) -> None:
    """Draws mean accuracies in percent as a line, with their standard deviations."""
    means, spreads = zip(*map(mean_and_spread, points), strict=True)
    percent = lambda values: [100 * value for value in values]
    axes.errorbar(
        x, percent(means), percent(spreads), label=label, color=color, marker="o", ms=4, capsize=3
    )


def paint(size: tuple[float, float], draw: Callable[[Any], None]) -> Any:
    """Makes a figure of matplotlib and draws on it."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    draw(figure)
    for axes in figure.axes:
        axes.grid(color="#E5E7EB")
        axes.set_axisbelow(True)
    return figure


def write_page(
    options: Options,
    name: str,
    title: str,
    *,
    tables: Mapping[str, tuple[Sequence[str], Sequence[Sequence[Any]]]],
    figures: Mapping[str, Any],
    seconds: float,
    packages: Sequence[str] = ("jax", "nfx"),
) -> None:
    """Writes `NAME.md` and a figure `NAME-FIGURE.svg` for each.

    Args:
        options: Where.
        name: Of the module of the claim, and of its files.
        title: Of the page.
        tables: By caption: a header and rows.
        figures: Of matplotlib, by a word.
        seconds: Wall time of all that the page shows.
        packages: What versions to say.
    """
    import matplotlib

    options.out.mkdir(parents=True, exist_ok=True)
    parts = [f"# {title}"]
    for word, figure in figures.items():
        file = options.out / f"{name}-{word}.svg"
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "nfx"}):
            figure.savefig(file, metadata={"Date": None})
        parts.append(f"**{word}**\n\n![{title}: {word}]({file.name})")
    for caption, (header, rows) in tables.items():
        parts.append(f"{caption}\n\n{markdown(header, rows)}")
    seeds = f"seeds {', '.join(map(str, options.seeds))}; " if options.seeds else ""
    parts.append(
        f"`python -m benchmarks.paper.{name}`: {seeds}{seconds / 60:.0f} minutes of wall "
        f"time; {machine(*packages)}. What is seen in it: [the paper's claims](../paper.md)."
    )
    page = options.out / f"{name}.md"
    page.write_text("\n\n".join(parts) + "\n")
    print(f"Wrote {page}")


def wall_seconds(outcomes: Mapping[Any, Sequence[Outcome]]) -> float:
    """Of all trainings together, whenever they were."""
    return sum(outcome.seconds for each in outcomes.values() for outcome in each)
