"""Numbers of things, in words."""


def counted(number: float, one: str, many: str | None = None) -> str:
    """`1 report`, `1,234 reports`; with `many` also `1 event waits`, `2 events wait`."""
    return f"{number:,.0f} {one if number == 1 else many or f'{one}s'}"
