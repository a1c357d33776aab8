#!/usr/bin/env python3
"""Values of test/unit/stat_known.c, by other people's code: confseq 0.0.11 (Howard, Waudby-Smith and Ramdas; its C++ part builds up to Python
3.10) and scipy. Run in an environment that has both: python3.10 -m venv V; V/bin/pip install confseq scipy 'numpy<2'; V/bin/python test/tool/stat_known.py

The samples are those of stat_known.c; bets and their shares are those of src/stat/evidence.c, the arithmetic of wealth is confseq's."""
import numpy as np
from confseq.betting import betting_cs, diversified_betting_mart
from confseq.boundaries import normal_mixture_bound
from scipy import optimize, stats

N, BETS = 120, 14
RISK = [0.95] + [1.3 / 2**i for i in range(1, BETS)]
SHARE = np.array([1 / ((i + 3) * (i + 4)) for i in range(BETS)])
SHARE /= SHARE.sum()
REAL = np.array([(i * 7919 + 13) % 1000 / 999 for i in range(N)])
BOOL = np.array([float((i * i * 31 + 7 * i) % 100 < 60) for i in range(N)])


def wealth_log(x, m, below):
    """On a mean above m, or below it, as a wager on 1 - x and 1 - m."""
    x, m = (1 - x, 1 - m) if below else (x, m)
    bets = [lambda x, m, c=c: np.full(len(x), c / m) for c in RISK]
    return float(np.log(diversified_betting_mart(x, m, bets, lambdas_weights=SHARE, theta=1, trunc_scale=1)[-1]))


def interval(x, alpha):
    limit = np.log(2 / alpha)
    low = optimize.brentq(lambda m: wealth_log(x, m, False) - limit, 1e-6, x.mean())
    high = optimize.brentq(lambda m: wealth_log(x, m, True) - limit, x.mean(), 1 - 1e-6)
    return low, high


for name, x in (("REAL", REAL), ("BOOL", BOOL)):
    for n in (40, N):
        for m in (0.3, 0.5, 0.7):
            print(f"    {{{name}, {n}, {m}, {wealth_log(x[:n], m, False):.12g}, {wealth_log(x[:n], m, True):.12g}}},")
for name, x in (("REAL", REAL), ("BOOL", BOOL)):
    for n in (40, N):
        low, high = interval(x[:n], 0.05)
        l, u = betting_cs(x[:n], alpha=0.05, breaks=4000)
        print(f"    {{{name}, {n}, {low:.9g}, {high:.9g}, {l[-1]:.6g}, {u[-1]:.6g}}},")
for n, best, var, alpha in ((100, 500, 1.0, 0.05), (500, 500, 1.0, 0.05), (3000, 500, 0.25, 0.05), (800, 200, 9.0, 0.01)):
    # alpha_opt: whose width is least at v_opt; the two-sided boundary of the sum
    half = normal_mixture_bound(n * var, alpha, best * var, alpha, False) / n
    print(f"    {{{n}, {best}, {var}, {alpha}, {float(half):.12g}}},")
for count, share in (((52, 31, 17), (0.5, 0.3, 0.2)), ((80, 10, 10), (0.5, 0.3, 0.2)), ((3, 0, 0), (0.2, 0.5, 0.3))):
    n = sum(count)
    e = stats.dirichlet_multinomial.logpmf(count, np.array(share) * len(share), n) - stats.multinomial.logpmf(count, n, share)
    print(f"    {{{{{', '.join(map(str, count))}}}, {{{', '.join(map(str, share))}}}, {float(e):.12g}}},")
r = stats.linregress(BOOL, REAL)
left = REAL - r.slope * (BOOL - BOOL.mean())
print(f"    {{{left[0]:.12g}, {left[17]:.12g}, {left[N - 1]:.12g}}}")
