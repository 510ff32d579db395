"""Quantities as people read them. The number stays a number until it is printed."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Bytes:
    """A size. Binary units, as memory and GGUF tools count: 1 GiB = 2**30."""

    value: int

    def __str__(self) -> str:
        size, unit = float(self.value), "B"
        for larger in ("KiB", "MiB", "GiB", "TiB"):
            if abs(size) < 1000:  # 1000 to 1023 would need four digits
                break
            size, unit = size / 1024, larger
        return f"{self.value} B" if unit == "B" else f"{size:.3g} {unit}"


@dataclass(frozen=True, order=True)
class Seconds:
    """A duration."""

    value: float

    def __str__(self) -> str:
        s = self.value
        if s < 0.001:
            return f"{s * 1e6:.0f} µs"
        if s < 1:
            return f"{s * 1000:.3g} ms"
        if s < 120:
            return f"{s:.3g} s"
        minutes, seconds = divmod(round(s), 60)
        hours, minutes = divmod(minutes, 60)
        return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


@dataclass(frozen=True, order=True)
class Rate:
    """Something a second: tokens by default, bytes with `unit="B/s"`."""

    value: float
    unit: str = "t/s"

    def __str__(self) -> str:
        if self.unit == "B/s":
            return f"{Bytes(round(self.value))}/s"
        digits = 2 if self.value < 100 else 1
        return f"{self.value:.{digits}f} {self.unit}".rstrip()


@dataclass(frozen=True, order=True)
class Percent:
    """A share: 0.25 is 25 %."""

    value: float

    def __str__(self) -> str:
        return f"{self.value * 100:.3g} %"


@dataclass(frozen=True, order=True)
class Count:
    """A count; large ones as 270 M or 7.62 B, as models are named."""

    value: int

    def __str__(self) -> str:
        n = self.value
        for limit, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
            if abs(n) >= limit:
                return f"{n / limit:.3g} {unit}"
        return f"{n:,}"


@dataclass(frozen=True, order=True)
class Moment:
    """A point in time, seconds since the epoch, shown in local time."""

    value: float

    def __str__(self) -> str:
        import time

        return time.strftime("%Y-%m-%d %H:%M", time.localtime(self.value))
