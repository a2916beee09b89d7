"""The lines of the table: a figure beside the same upstream called directly, and what it must and should be."""

import math
from dataclasses import dataclass, field

SIDES = ("direct", "ours")
Samples = dict[str, list[float]]


def empty() -> Samples:
    return {side: [] for side in SIDES}


@dataclass
class Line:
    """``must`` and ``goal`` are limits of ``ours``: it should be at most that, or at least, where *more* is better."""

    name: str
    unit: str
    ours: float
    must: float | None = None
    goal: float | None = None
    more: bool = False
    direct: float | None = None
    cpu: str = ""
    memory_bytes: int = 0

    def keeps(self, limit: float | None) -> bool | None:
        """Whether *limit* is kept; ``None`` without one."""
        if limit is None:
            return None
        return not math.isnan(self.ours) and (self.ours >= limit if self.more else self.ours <= limit)

    @property
    def ratio(self) -> float | None:
        return self.ours / self.direct if self.direct else None

    def facts(self) -> dict[str, object]:
        return {
            "name": self.name, "unit": self.unit, "ours": self.ours, "direct": self.direct, "ratio": self.ratio,
            "cpu": self.cpu, "memory_mib": round(self.memory_bytes / 2**20, 1), "must": self.must, "goal": self.goal,
            "met": self.keeps(self.must), "goal_met": self.keeps(self.goal),
        }  # fmt: skip

    def cells(self) -> tuple[str, ...]:
        verdict = {None: "", True: "yes", False: "NO"}[self.keeps(self.must)]
        if verdict == "yes" and self.keeps(self.goal):
            verdict = "goal"
        sign = "" if self.must is None and self.goal is None else ">= " if self.more else "<= "
        must, goal = (sign + number(limit) if limit is not None else "" for limit in (self.must, self.goal))
        memory = f"{self.memory_bytes / 2**20:.0f}" if self.memory_bytes else ""
        ratio = f"{self.ratio:.2f}" if self.ratio is not None else ""
        direct = number(self.direct) if self.direct is not None else ""
        name = f"{self.name}, {self.unit}" if self.unit else self.name
        return name, number(self.ours), direct, ratio, self.cpu, memory, must, goal, verdict


HEADS = ("", "respool", "direct", "ratio", "CPU", "RSS MiB", "must", "goal", "met")


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}" if abs(value) >= 30 else f"{value:.2f}"


def render(lines: list[tuple[str, ...]]) -> str:
    """A Markdown table that is also aligned for the eye; figures to the right."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEADS))]

    def draw(line: tuple[str, ...]) -> str:
        _, *others = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        return f"| {line[0].ljust(widths[0])} | {' | '.join(others)} |"

    rule = tuple("-" * width for width in widths)
    marks = f"| {rule[0]} | {' | '.join(dashes[:-1] + ':' for dashes in rule[1:])} |"
    return "\n".join([draw(lines[0]), marks, *map(draw, lines[1:])])


@dataclass
class Row:
    """What was measured on both sides. Samples are ``ms``, or ``/s`` (then more is better)."""

    unit: str
    samples: Samples = field(default_factory=empty)
    cpu: str = ""
    cpu_ms: float | None = None
    memory_bytes: int = 0

    def percentile(self, share: float, side: str = "ours") -> float:
        """The value that *share* of the samples are at least as good as."""
        ordered = sorted(self.samples[side], reverse=self.unit == "/s")
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")

    def line(self, name: str, share: float, must: float | None = None, goal: float | None = None) -> Line:
        """The percentile of both sides."""
        both = self.percentile(share), self.percentile(share, "direct")
        return Line(
            name,
            self.unit,
            both[0],
            must,
            goal,
            self.unit == "/s",
            both[1],
            cpu=self.cpu,
            memory_bytes=self.memory_bytes,
        )

    def over(self, name: str, share: float, must: float | None = None, goal: float | None = None) -> Line:
        """How much more it is than on the direct side."""
        more = self.percentile(share) - self.percentile(share, "direct")
        return Line(name, self.unit, more, must, goal, cpu=self.cpu, memory_bytes=self.memory_bytes)
