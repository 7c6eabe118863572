"""The server of the tests: Galata's, with nothing of the user's own, and with the extension that was built last."""

import os

from jupyterlab.galata import configure_jupyter_server

c = get_config()  # type: ignore[name-defined]  # noqa: F821 - traitlets puts it there
configure_jupyter_server(c)
c.ServerApp.port = int(os.environ["UI_TESTS_PORT"])
c.ServerApp.ip = "127.0.0.1"
c.ServerApp.allow_root = True
c.LabApp.extension_manager = "readonly"
c.LabApp.news_url = None
