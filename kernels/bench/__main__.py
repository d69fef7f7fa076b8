"""`python -m kernels.bench DEVICE SIZE [OP …]`: the bench on a machine that has PyTorch but not the whole project."""

from __future__ import annotations

import json
import sys

from kernels.bench.runner import OPS, run

if __name__ == "__main__":
    document = run(
        sys.argv[3:] or list(OPS),
        sys.argv[1],
        int(float(sys.argv[2])),
        report=lambda line: print(line, file=sys.stderr),
    )
    print(json.dumps(document))
