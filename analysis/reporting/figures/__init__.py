"""The charts of a report, built with plotly from a run.

    trajectory.py    heads, turnover, overlap with the base, loss or reward, pass@1 over steps;
                     emergent heads by the checkpoint at which each emerged first; how well each
                     circuit stands for its model
    head_map.py      layers x heads with a slider over the checkpoints
    sensitivity.py   the last checkpoint's counts under other sizes and thresholds

Colours follow arXiv 2509.25758: emergent heads blue, heads of the base's circuit red and dashed, a
black outline for those of the final circuit. A shaded band or a bar is always a 95 % interval.
Charts hold numbers and names of heads and benchmarks only, never text from a model or a
configuration.
"""
