"""An example report, and a parser that checks its HTML."""

import dataclasses
import html.parser
import math

import numpy as np

from twodal_jax.evaluation import metrics
from twodal_jax.reporting import html_report

VOID = {"meta", "link", "img", "br"}


class Page(html.parser.HTMLParser):
    """Collects tags, attributes and text, and checks that tags nest."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], "", []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def example_report(**changes):
    rng = np.random.default_rng(0)
    steps = np.arange(0, 2000, 10)
    errors, yaw = rng.gamma(6.0, 0.6, 199), rng.uniform(-90, 90, 199)
    summary, untrained = (metrics.summarize(errors * factor, yaw) for factor in (1, 6))
    picture = rng.integers(0, 255, (96, 96, 3), dtype=np.uint8)
    data = html_report.ReportData(
        title="A run of the test",
        lede="Made-up numbers.",
        headlines={"NME, mean of bins": "4.1 %"},
        summary={"parameters": 2_812_345, "images/s": 213.74, "config": "configs/demo.py"},
        losses={"l_3d": list(zip(steps, np.exp(-steps / 300.0) + 0.01)), "vdc": [(1500, 3.0), (1600, math.nan)]},
        loss_units={"vdc": "crop pixels²"},
        nme_curves={"detected": [(0, 25.0), (1000, 5.0), (1990, 4.0)]},
        stage_starts=[(1400, "stage 2")],
        results=[
            html_report.Result("Detected landmarks", "before training", untrained),
            html_report.Result("Detected landmarks", "after stage 2", summary),
            html_report.Result("Empty heatmap", "after stage 2", metrics.summarize([4.5], [0.0])),
        ],
        error_distributions={"detected": errors, "before training": errors * 6},
        examples=[
            html_report.Example(f"image{i}.jpg", nme, -40.0, {"input": picture, "68": picture}, rank)
            for i, (nme, rank) in enumerate(zip((1.0, 3.0, 20.0), metrics.rank_names(3)))
        ],
        num_images_by_bin=metrics.count_by_bin(yaw),
        notes=["One update was skipped."],
    )
    return dataclasses.replace(data, **changes)
