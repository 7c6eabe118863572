"""Run the tour without a browser: print its summary, and write it with its pictures as one HTML page.

python notebooks/run_demo.py [--out build/tour.html]
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter

TOUR = Path(__file__).with_name("00_tour.ipynb")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("build/tour.html"), help="the page (default build/tour.html)")
    out: Path = parser.parse_args().out
    notebook = nbformat.read(TOUR, as_version=4)
    print(f"running {TOUR.name}, about a quarter of a minute ...", flush=True)
    begun = time.monotonic()
    try:
        # A page with the state of the widgets would show nothing where there is no kernel; this one shows pictures.
        NotebookClient(notebook, timeout=120, kernel_name="python3", store_widget_state=False).execute()
    except CellExecutionError as error:
        print(error, file=sys.stderr)
        return 1
    for cell in notebook.cells:
        if "summary" in cell.metadata.get("tags", []):
            print("".join(output.text for output in cell.outputs if output.output_type == "stream"))
    page, _ = HTMLExporter(embed_images=True).from_notebook_node(notebook)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    print(f"{time.monotonic() - begun:.0f} s; the tour with its pictures: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
