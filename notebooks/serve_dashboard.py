"""Serve the dashboard of the tour's actors as a page without code, by Voilà. Who opens it gets actors of their own.

python notebooks/serve_dashboard.py [options of voila, such as --no-browser --port=8866]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from voila.app import Voila

HERE = Path(__file__).parent
MISFITS = ("@jupyter-notebook/lab-extension", "pydotcompute")
"""Extensions of Notebook and JupyterLab, which find nothing of theirs in Voilà's page, and say so in its console."""


def main() -> None:
    # Where Voilà looks for templates: `page` is in `voila/templates`.
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(HERE), os.environ.get("JUPYTER_PATH")]))
    without = [f"--VoilaConfiguration.extension_denylist={name}" for name in MISFITS]
    Voila.launch_instance(["--template=page", *without, "--token", *sys.argv[1:], str(HERE / "dashboard.ipynb")])


if __name__ == "__main__":
    main()
