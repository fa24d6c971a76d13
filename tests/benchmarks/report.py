"""What a section found: its table, its bars, and its part of the JSON."""

from dataclasses import dataclass
from typing import Any

from rich.table import Table


@dataclass(frozen=True)
class Bar:
    """A figure that has to be reached.

    Attributes:
        at_most: whether the limit is the highest value allowed, or else the lowest.
    """

    name: str
    measured: float
    limit: float
    unit: str
    at_most: bool

    @property
    def met(self) -> bool:
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "measured": self.measured,
            "unit": self.unit,
            "at_most" if self.at_most else "at_least": self.limit,
            "met": self.met,
        }


@dataclass(frozen=True)
class Section:
    """The outcome of a section.

    Attributes:
        results: everything measured, as JSON; a key names its unit where it has one.
    """

    name: str
    results: dict[str, Any]
    table: Table
    bars: list[Bar]


def table(title: str, *columns: str) -> Table:
    """A table with a column of names and columns of figures; a narrow terminal cuts none off."""
    grid = Table(title=title, title_justify="left")
    grid.add_column(overflow="fold")
    for column in columns:
        grid.add_column(column, justify="right", overflow="fold")
    return grid


def exit_code(sections: list[Section]) -> int:
    """1 when a bar is missed, else 0."""
    return int(not all(bar.met for section in sections for bar in section.bars))


def bars_table(sections: list[Section]) -> Table:
    """All bars, met or missed."""
    grid = table("Bars", "measured", "bar", "")
    for section in sections:
        for bar in section.bars:
            grid.add_row(
                bar.name,
                f"{bar.measured:,.3g} {bar.unit}" if bar.measured < 100 else _whole(bar),
                f"{'≤' if bar.at_most else '≥'} {bar.limit:g} {bar.unit}",
                "[green]met[/green]" if bar.met else "[red]missed[/red]",
            )
    return grid


def _whole(bar: Bar) -> str:
    return f"{bar.measured:,.0f} {bar.unit}"
