"""`nfx models`."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.table import Table

from nfx._show import plain_table
from nfx.cli._parse import parse
from nfx.models import list_models, model_card, model_sizes, model_variant


@dataclasses.dataclass(frozen=True)
class ModelsCommand:
    """List the models, with their sizes and what is published about them.

    Attributes:
        pattern: Which, as "timm/*" or "nfnet_f?"; all by default.
        json: Print JSON.
    """

    pattern: Annotated[str, tyro.conf.Positional] = "*"
    json: bool = False


def main(arguments: Sequence[str]) -> int:
    """Parses the arguments and lists."""
    command = parse(ModelsCommand, "nfx models", arguments)
    names = list_models(command.pattern)
    if not names:
        raise ValueError(f"No model is named like {command.pattern!r}: see `nfx models`.")
    records = [_record(name) for name in names]
    if command.json:
        print(json.dumps(records, indent=1))
    else:
        Console().print(_table(records))
    return 0


def _record(name: str) -> dict[str, Any]:
    card, variant = model_card(name), model_variant(name)
    return {
        "name": name,
        "lineage": card.lineage,
        **model_sizes()[name]._asdict(),
        "train_size": variant.train_size,
        "test_size": variant.test_size,
        "top1": card.top1,
        "source": card.source or None,
    }


def _table(records: list[dict[str, Any]]) -> Table:
    sources = sorted({record["source"] for record in records if record["source"]})
    table = plain_table(
        caption="Millions of parameters; billions of multiply-accumulates on one image @ its side."
        + (f"\nTop-1: of ImageNet, in percent, says the {', '.join(sources)}." if sources else ""),
    )
    table.add_column("model", no_wrap=True)
    table.add_column("lineage", no_wrap=True)
    for column in ("params", "train MACs", "test MACs", "top-1"):
        table.add_column(column, justify="right", no_wrap=True)
    for record in records:
        table.add_row(
            record["name"],
            record["lineage"],
            _short(record["parameters"] / 1e6),
            f"{_short(record['train_macs'] / 1e9)} @ {record['train_size']}",
            f"{_short(record['test_macs'] / 1e9)} @ {record['test_size']}",
            "" if record["top1"] is None else f"{record['top1']:.1f}",
        )
    return table


def _short(number: float) -> str:
    return f"{number:.2f}" if number >= 1 else f"{number:.3g}"
