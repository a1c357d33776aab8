"""What the benchmarks say of many values."""
import math
import statistics


def spread(v, unit="", digits=3):
    v = sorted(v)
    f = f"%.{digits}g"
    return f"{f % statistics.median(v)}{unit} ({f % v[0]}-{f % v[-1]})"


def pct(v, p):
    v = sorted(v)
    return v[min(len(v) - 1, math.ceil(p / 100 * len(v)) - 1)]
