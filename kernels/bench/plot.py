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
        panel.text(1.55, roof * 1.02, f"copy: {roof:,.0f} GB/s")
        panel.axhline(0.85 * roof, color="grey", linewidth=0.8, linestyle="--")
        rows = [row for row in document["rows"] if row.get("bytes_per_element")]
        for number, row in enumerate(rows):
            point = (row["bytes_per_element"], row["bytes_per_second"] / 1e9)
            label = row["name"].removesuffix(", copy bandwidth").replace("decompress_accumulate W=8 ", "decompress, ")
            panel.plot(*point, "o", markersize=6, label=f"{number + 1} {label}")
            panel.annotate(str(number + 1), point, xytext=(5, 3), fontsize=8, textcoords="offset points")
        panel.set(xscale="log", xlabel="bytes an element", ylabel="GB/s", title=document["machine"]["device"])
        panel.set(xlim=(1.5, 60), ylim=(0, roof * 1.25), xticks=[2, 4, 8, 16, 32])
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter("")
        panel.legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    figure.tight_layout()
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), [json.loads(Path(name).read_text()) for name in sys.argv[2:]])
