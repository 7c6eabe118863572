/**
 * The extension in a JupyterLab of its own: `jlpm test` in this folder.
 *
 * PYTHON is the Python that runs the server and the kernels, else that of the PATH; CHROMIUM the browser.
 */
import { execFileSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { delimiter, join, resolve } from 'node:path';

import { defineConfig } from '@playwright/test';

const python = process.env['PYTHON'] ?? 'python';
const extension = resolve(__dirname, '..');

function printed(program: string, ...args: string[]): string {
  return execFileSync(program, args, { encoding: 'utf8' }).trim();
}

// Playwright reads this file again in each of its processes: what the first one found out is told to the others.
const port = (process.env['UI_TESTS_PORT'] ??= printed(
  python,
  '-c',
  'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
));
const folder = (process.env['UI_TESTS_FOLDER'] ??= mkdtempSync(join(tmpdir(), 'ui-tests-')));

/** Nothing that the user has set for Jupyter plays a part, and what is shown is what was built last. */
function environment(): { [name: string]: string } {
  const labextensions = join(folder, 'share', 'jupyter', 'labextensions');
  mkdirSync(labextensions, { recursive: true });
  mkdirSync(join(folder, 'notebooks'), { recursive: true });
  // A copy: who builds meanwhile does not take files away from the page.
  if (!existsSync(join(labextensions, 'pydotcompute'))) {
    cpSync(join(extension, 'labextension'), join(labextensions, 'pydotcompute'), { recursive: true });
  }
  // The debugger complains of each notebook that is closed while it still asks that one's kernel.
  mkdirSync(join(folder, 'config', 'labconfig'), { recursive: true });
  writeFileSync(
    join(folder, 'config', 'labconfig', 'page_config.json'),
    JSON.stringify({ disabledExtensions: { '@jupyterlab/debugger-extension': true } })
  );
  const of = (name: string): string => join(folder, name);
  return {
    IPYTHONDIR: of('ipython'),
    JUPYTERLAB_GALATA_ROOT_DIR: of('notebooks'),
    JUPYTERLAB_SETTINGS_DIR: of('settings'),
    JUPYTER_CONFIG_DIR: of('config'),
    JUPYTER_DATA_DIR: of('data'),
    JUPYTER_PATH: of(join('share', 'jupyter')),
    JUPYTER_PLATFORM_DIRS: '1',
    JUPYTER_PREFER_ENV_PATH: '1',
    JUPYTER_RUNTIME_DIR: of('runtime'),
    PYTHONPATH: [resolve(extension, '..'), process.env['PYTHONPATH']].filter(Boolean).join(delimiter)
  };
}

export default defineConfig({
  testDir: 'tests',
  outputDir: join(folder, 'results'),
  reporter: [['list']],
  // All tests of a file share one page: starting JupyterLab and a kernel takes longer than what is tested.
  workers: 2,
  timeout: 60_000,
  expect: { timeout: 15_000 },
  forbidOnly: Boolean(process.env['CI']),
  use: {
    baseURL: `http://127.0.0.1:${port}`,
    launchOptions: {
      executablePath: process.env['CHROMIUM'] ?? printed('sh', '-c', 'command -v chromium || command -v google-chrome'),
      args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--js-flags=--expose-gc']
    }
  },
  webServer: {
    command: `'${python}' -m jupyterlab --config='${join(__dirname, 'jupyter_config.py')}'`,
    url: `http://127.0.0.1:${port}/api/status`,
    env: environment(),
    cwd: folder,
    timeout: 60_000,
    stdout: 'ignore',
    stderr: 'ignore',
    gracefulShutdown: { signal: 'SIGTERM', timeout: 10_000 }
  }
});
