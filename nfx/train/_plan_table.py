"""Plans for a person to read."""

from rich.table import Table

from nfx._show import format_bytes, plain_table
from nfx.sharding import spec_axes
from nfx.train._plan import Plan


def plan_tables(plan: Plan) -> list[Table]:
    """Makes the tables of a plan, for `rich`'s console: leaves, totals, collectives.

    Only the model's leaves are listed: momentum and average live where their parameters do.
    """
    return [_leaves(plan), _state(plan), _collectives(plan)]


def _leaves(plan: Plan) -> Table:
    mesh = ", ".join(f"{axis}={size}" for axis, size in plan.mesh.items())
    large = {leaf.path for leaf in plan.large_whole_leaves}
    table = plain_table(f"Parameters over {mesh}", "* Large, and whole on every device.")
    table.add_column("parameter", no_wrap=True)
    for column in ("shape", "spec", "per device"):
        table.add_column(column, justify="right", overflow="fold")
    for leaf in plan.leaves:
        if leaf.path.startswith("model/"):
            mark = " *" if leaf.path in large else ""
            spec = ", ".join("+".join(spec_axes(entry)) or "-" for entry in leaf.spec) or "whole"
            table.add_row(
                leaf.path.removeprefix("model/") + mark,
                "x".join(map(str, leaf.shape)) or "scalar",
                spec,
                format_bytes(leaf.bytes_per_device),
            )
    return table


def _state(plan: Plan) -> Table:
    splits = plan.mesh.get("model", 1) > 1
    notes = [
        f"The axis {axis!r} splits nothing: its devices do the same." for axis in plan.idle_axes
    ]
    notes += [f"{path} is whole: {why}." for path, why in plan.whole_blocks.items() if splits]
    table = plain_table("State", "\n".join(notes))
    table.add_column("", no_wrap=True)
    for column in ("whole", "per device", "share"):
        table.add_column(column, justify="right", no_wrap=True)
    for prefix, name in (
        ("model", "parameters"),
        ("opt_state", "optimizer and average"),
        ("", "all"),
    ):
        leaves = [leaf for leaf in plan.leaves if leaf.path.startswith(prefix)]
        whole = sum(leaf.bytes for leaf in leaves)
        own = sum(leaf.bytes_per_device for leaf in leaves)
        table.add_row(name, format_bytes(whole), format_bytes(own), f"{own / max(whole, 1):.1%}")
    return table


def _collectives(plan: Plan) -> Table:
    caption = (
        "Of the forward and backward pass, on one device, before a compiler joins them; the update "
        "adds little."
    )
    table = plain_table("Collectives of a step", caption)
    table.add_column("for", no_wrap=True)
    for column in ("kind", "arrays", "bytes"):
        table.add_column(column, justify="right", no_wrap=True)
    for expected in plan.collectives:
        table.add_row(
            expected.purpose, expected.kind, f"{expected.number:,}", format_bytes(expected.bytes)
        )
    return table
