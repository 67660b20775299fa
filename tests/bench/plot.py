# SPDX-License-Identifier: GPL-2.0
"""The benchmark's plot: ratios with their spread over the rounds, for gnuplot."""

from . import report

# Okabe and Ito: told apart by every kind of eye.
GOOD, BAD, NEUTRAL, MARK = "#009e73", "#d55e00", "#56b4e9", "#000000"

SCRIPT = """set terminal svg size 1500,{height} dynamic enhanced font "sans,13" background "white"
set output "{output}"
set multiplot layout 1,2 title "Rust against C, {subtitle}" font "sans,15"
set style fill solid 0.85
set boxwidth 0.6
set grid xtics lc rgb "#dddddd"
set key off
set lmargin 38
set rmargin 3
"""
# Horizontal bars: x is the ratio, y counts the cases down from the top.
PANEL = """set title "{title}"
set xlabel "Rust / C (or / TCP)"
{scale}
set xrange [{least}:{most}]
set yrange [{last}.7:-0.7]
set ytics ({tics}) scale 0
set arrow 1 from 1,graph 0 to 1,graph 1 nohead lc rgb "{mark}" dt 2
plot $bars using ({least}):1:({least}):2:($1-0.32):($1+0.32):3 with boxxyerror lc rgb variable, \\
     $spread using 1:2:3:4 with xerrorbars lc rgb "{mark}" pt 7 ps 0.3, \\
     $targets using 1:2:(0):(0.8) with vectors nohead lw 3 lc rgb "{mark}", \\
     $labels using 1:2:3 with labels left font "sans,11"
"""


# From which ratio on the scale is logarithmic, and where it begins then.
FAR, NEAR = 10, 0.1


def colour(row):
    """By whether the target is reached; a decimal number, as gnuplot wants it in data."""
    name = {True: GOOD, False: BAD, None: NEUTRAL}[row.metric.reached(row.ratio)]
    return int(name[1:], 16)


def panel(title, found):
    """One panel: bars, spread, targets, numbers."""
    found = [row for row in found if row.ratio is not None]
    most = max([1.2, *(max(row.high or 0, row.ratio, row.metric.target or 0) for row in found)])
    is_far = most > FAR
    # As far from the end of the bar on either scale.
    behind = (lambda ratio: ratio * 1.1) if is_far else (lambda ratio: ratio + most * 0.02)
    tics = ", ".join(f'"{row.kind}: {report.label(row)}" {place}'
                     for place, row in enumerate(found))
    bars = [f"{place} {row.ratio:.4f} {colour(row)}" for place, row in enumerate(found)]
    spread = [f"{row.ratio:.4f} {place} {row.low:.4f} {row.high:.4f}"
              for place, row in enumerate(found) if row.low is not None] or ["NaN NaN NaN NaN"]
    targets = [f"{row.metric.target} {place - 0.4}" for place, row in enumerate(found)
               if row.metric.target is not None] or ["NaN NaN"]
    labels = [f'{behind(max(row.high or 0, row.ratio)):.4f} {place} "{row.ratio:.2f}"'
              for place, row in enumerate(found)]
    blocks = {"bars": bars, "spread": spread, "targets": targets, "labels": labels}
    return ("".join(f"${name} << EOD\n" + "\n".join(data) + "\nEOD\n"
                    for name, data in blocks.items())
            + PANEL.format(title=title, scale="set logscale x" if is_far else "unset logscale x",
                           least=NEAR if is_far else 0, most=most * (4 if is_far else 1.15),
                           last=len(found) - 1, tics=tics, mark=MARK))


def script(found, subtitle, output):
    """The whole script; gnuplot writes an SVG file."""
    faster = [row for row in found if row.metric.higher]
    cheaper = [row for row in found if not row.metric.higher]
    height = 150 + 32 * max(len(faster), len(cheaper), 4)
    return (SCRIPT.format(height=height, output=output, subtitle=subtitle)
            + panel("Throughput (more is better; black: target)", faster)
            + panel("CPU time (less is better; black: target)", cheaper) + "unset multiplot\n")
