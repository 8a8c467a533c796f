"""Writes coefficients.rs and reference.txt, which are committed. Needs mpmath.

Coefficients: polynomials through Chebyshev points, in ascending powers. References: `function input [input] high low`, f64 bits in hex, where
high + low is the exact result to about 100 bits. `python3 tables.py [POINTS]`: points a function in reference.txt.
"""

import os
import random
import struct
import sys
from mpmath import atan, atanh, cos, erf, exp, expm1, inf, log, log1p, lu_solve, matrix, mp, mpf, pi, power, sin, sqrt, tanh

mp.prec = 1400
HERE = os.path.dirname(os.path.abspath(__file__))


def fit(f, a, b, n):
    a, b = mpf(a), mpf(b)
    xs = [(a + b) / 2 + (b - a) / 2 * cos(pi * (2 * k + 1) / (2 * n)) for k in range(n)]
    xs = [x if abs(x) > 1e-80 else mpf("1e-80") for x in xs]
    c = lu_solve(matrix([[x**j for j in range(n)] for x in xs]), matrix([f(x) for x in xs]))
    return [c[j] for j in range(n)]


def show(x):
    return repr(float(x))


out = ["//! Polynomial coefficients and split constants; written by tables.py.\n"]


def table(name, about, c):
    out.append(f"/// {about}\npub const {name}: [f64; {len(c)}] = [{', '.join(show(x) for x in c)}];")


def constant(name, about, x):
    out.append(f"/// {about}\npub const {name}: f64 = {show(x)};")


half = log(2) / 2 * mpf("1.001")
root = sqrt(mpf(2))
for bits, n in ((32, 6), (64, 11)):
    table(f"EXP{bits}", "`(e^r - 1 - r) / r^2` for |r| <= ln(2)/2", fit(lambda r: (exp(r) - 1 - r) / r**2, -half, half, n))
table("LOG32", "`(log(1+f) - f + f^2/2) / f^3` for 1+f in [sqrt(1/2), sqrt(2)]",
      fit(lambda f: (log(1 + f) - f + f * f / 2) / f**3, 1 / root - 1, root - 1, 10))
over = lambda g: lambda z: g(sqrt(z))
table("LOG64", "`(2*atanh(s) - 2*s) / s^3` in s^2", fit(over(lambda s: (2 * atanh(s) - 2 * s) / s**3), 0, "0.0295", 8))
table("POW64", "`(2*atanh(s) - 2*s - 2/3*s^3) / s^5` in s^2", fit(over(lambda s: (2 * atanh(s) - 2 * s - 2 * s**3 / 3) / s**5), 0, "0.0295", 8))
quarter = (pi / 4 * mpf("1.0001")) ** 2
for bits, n in ((32, 4), (64, 7)):
    table(f"SIN{bits}", "`(sin(r) - r) / r^3` in r^2 for |r| <= pi/4", fit(over(lambda r: (sin(r) - r) / r**3), 0, quarter, n))
    table(f"COS{bits}", "`(cos(r) - 1 + r^2/2) / r^4` in r^2 for |r| <= pi/4", fit(over(lambda r: (cos(r) - 1 + r * r / 2) / r**4), 0, quarter, n))
for bits, n in ((32, 6), (64, 12)):
    table(f"ATAN{bits}", "`(atan(t) - t) / t^3` in t^2 for |t| <= tan(pi/8)",
          fit(over(lambda t: (atan(t) - t) / t**3), 0, ((root - 1) * mpf("1.001")) ** 2, n))
table("ERF64", "`erf(x)/x - 1` in x^2 for |x| <= 1", fit(over(lambda x: erf(x) / x - 1), 0, 1, 13))
edges, rows = ["1", "1.6", "2.3", "3.1", "4.2", "6"], []
for a, b in zip(edges, edges[1:]):
    c = mpf(float((mpf(a) + mpf(b)) / 2))
    c = mpf(struct.unpack("f", struct.pack("f", float(c)))[0])
    rows.append((b, c, fit(lambda u: erf(c + u), mpf(a) - c, mpf(b) - c, 17)))
body = ",\n    ".join(f"({show(mpf(b))}, {show(c)}, [{', '.join(show(x) for x in p)}])" for b, c, p in rows)
out.append(f"/// Upper end, centre `c` and `erf(c + u)` in u, from 1 on.\npub const ERF64_PIECES: [(f64, f64, [f64; 17]); {len(rows)}] = [\n    {body},\n];")


def cut(x, bits):
    scale = mpf(2) ** (bits - 1 - int(mp.floor(log(abs(x)) / log(2))))
    return mp.floor(x * scale) / scale


def single(x):
    return mpf(struct.unpack("f", struct.pack("f", float(x)))[0])


# erf in f32: around points near multiples of 33/128 at which erf is almost exactly an f32.
centres, rows, h = [mpf(0)], [], mpf(33) / 256 * mpf("1.002")
for n in range(1, 16):
    near = struct.unpack("I", struct.pack("f", n * 33 / 128))[0]
    points = (mpf(struct.unpack("f", struct.pack("I", near + i))[0]) for i in range(-2000, 2000))
    centres.append(min(points, key=lambda c: abs(erf(c) - single(erf(c)))))
for n, c in enumerate(centres):
    f = (lambda u: (erf(c + u) - erf(c)) / u) if n > 0 else (lambda u: erf(u) / u - 1)
    middle = mpf(n) * 33 / 128
    rows.append([single(erf(c))] + fit(f, middle - h - c, middle + h - c, 6))
table("ERF32_CENTRES", "`c` near multiples of 33/128", centres)
lines = ",\n    ".join(f"[{', '.join(show(row[j]) for row in rows)}]" for j in range(7))
out.append(f"/// `erf(c + u)` in ascending powers of u, for every centre; of the first, `erf(u) - u`.\npub const ERF32: [[f64; 16]; 7] = [\n    {lines},\n];")

ln2 = log(mpf(2))
constant("LOG2E", "1 / ln(2)", 1 / ln2)
for bits, keep in ((32, 15), (64, 41)):
    high = cut(ln2, keep)
    low = single(ln2 - high) if bits == 32 else mpf(float(ln2 - high))
    constant(f"LN2_{bits}_HIGH", f"ln(2) to {keep} bits", high)
    constant(f"LN2_{bits}_LOW", "The rest", low)
for name, x in (("HALF_PI", pi / 2), ("QUARTER_PI", pi / 4)):
    rest = x
    for part in ("HIGH", "LOW", "LAST")[: 3 if name == "HALF_PI" else 2]:
        constant(f"{name}_{part}", f"{name.lower()}, {part.lower()} part", rest)
        rest -= mpf(float(rest))
    rest = x
    for part in ("HIGH", "LOW"):
        constant(f"{name}_32_{part}", f"{name.lower()} in f32, {part.lower()} part", single(rest))
        rest -= single(rest)
constant("TWO_THIRDS_HIGH", "2/3", mpf(2) / 3)
constant("TWO_THIRDS_LOW", "Its rest", mpf(2) / 3 - mpf(float(mpf(2) / 3)))
constant("TWO_OVER_PI", "2 / pi", 2 / pi)
rest, digits = 2 / pi, []
for _ in range(46):
    rest *= 2**26
    digits.append(mp.floor(rest))
    rest -= digits[-1]
table("TWO_OVER_PI_DIGITS", "2 / pi after the point in base 2^26", digits)
open(os.path.join(HERE, "coefficients.rs"), "w").write("\n".join(out) + "\n")

# References.
points = int(sys.argv[1]) if len(sys.argv) > 1 else 40
rng = random.Random(1)
sigmoid = lambda x: 1 / (1 + exp(-x))
wide = lambda lo, hi, signed=True: lambda: (rng.choice((-1, 1)) if signed else 1) * 2 ** rng.uniform(lo, hi)
plain = lambda lo, hi: lambda: rng.uniform(lo, hi)
FUNCTIONS = {
    "exp": (exp, [plain(-745, 709.7), plain(-2, 2), wide(-60, 2)]),
    "expm1": (expm1, [plain(-40, 709), plain(-1.5, 1.5), wide(-1060, 0)]),
    "log": (log, [plain(0.3, 3), plain(0.999, 1.001), wide(-1070, 1023, False)]),
    "log1p": (log1p, [plain(-0.999, 3), plain(-0.01, 0.01), wide(-1060, -1), wide(-10, 1000, False)]),
    "sin": (sin, [plain(-10, 10), wide(-1000, 20), wide(20, 1023)]),
    "cos": (cos, [plain(-10, 10), wide(-30, 20), wide(20, 1023)]),
    "atan": (atan, [plain(-4, 4), wide(-1060, 1000), wide(-4, 4)]),
    "tanh": (tanh, [plain(-2, 2), plain(-20, 20), wide(-1060, 0)]),
    "sigmoid": (sigmoid, [plain(-5, 5), plain(-740, 40), wide(-10, 3)]),
    "erf": (erf, [plain(-1.2, 1.2), plain(-6, 6), wide(-1060, 0)]),
    "^": (power, None),
}
HARD = {
    "sin": [6381956970095103 * 2.0**797, 3.141592653589793, 355.0, 1e22],
    "cos": [6381956970095103 * 2.0**797, 1.5707963267948966, 11.0, 1e22],
}


def bits(x):
    return struct.pack(">d", x).hex()


lines = []
for name, (f, kinds) in FUNCTIONS.items():
    for i in range(points):
        if kinds is None:
            x = [wide(-1, 1, False), wide(-1022, 1023, False), plain(0.99, 1.01)][i % 3]()
            y = rng.uniform(-1, 1) * min(740 / abs(float(log(x))), 1e300)
            args = [x, y]
        elif i < len(HARD.get(name, [])):
            args = [HARD[name][i]]
        else:
            args = [kinds[i % len(kinds)]()]
        exact = f(*map(mpf, args))
        high = float(exact)
        if high == 0 or abs(high) == inf:
            continue
        lines.append(" ".join([name, *map(bits, args), bits(high), bits(float(exact - mpf(high)))]))
open(os.path.join(HERE, "reference.txt"), "w").write("\n".join(lines) + "\n")
