"""`python -m kernels.bench.plot OUT.png RESULT.json …`: bytes an element against achieved bandwidth, by machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def draw(out: Path, documents: list[dict]) -> None:
    """One panel a document: a point for each row that has bytes, the measured copy bandwidth as the roof."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(documents), figsize=(7 * len(documents), 4.8), squeeze=False)
    for panel, document in zip(panels[0], documents, strict=True):
        roof = next(row["value"] for row in document["rows"] if row["name"] == "copy bandwidth")
        panel.axhline(roof, color="black", linewidth=1)
        panel.annotate(
            f"copy: {roof:,.0f} GB/s", (1.02, 1.005), xycoords=("axes fraction", "data"), annotation_clip=False
        )
        panel.axhline(0.85 * roof, color="grey", linewidth=0.8, linestyle="--")
        for row in document["rows"]:
            if row.get("bytes_per_element"):
                point = (row["bytes_per_element"], row["bytes_per_second"] / 1e9)
                panel.plot(*point, "o", markersize=6)
                panel.annotate(
                    row["name"].removesuffix(", copy bandwidth"),
                    point,
                    xytext=(5, 3),
                    fontsize=7,
                    textcoords="offset points",
                )
        panel.set(
            xscale="log", xlabel="bytes an element", ylabel="GB/s", title=document["machine"]["device"], xlim=(1.5, 60)
        )
        panel.set_ylim(0, roof * 1.25)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), [json.loads(Path(name).read_text()) for name in sys.argv[2:]])
