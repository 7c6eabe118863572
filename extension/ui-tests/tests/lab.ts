/** JupyterLab with the extension, and what tests do with notebooks in it. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import { galata, type IJupyterLabPageFixture } from '@jupyterlab/galata';
import { test as base, expect, type Locator } from '@playwright/test';

export { expect };

export const LOAD = '%load_ext pydotcompute';

/** A kernel that counts, and answers what it has counted. */
export const COUNTER = `%%ring_kernel counter
async def counter(ctx):
    async for message in ctx:
        pass
`;

/** A kernel that fails at its first message. */
export const ALARM = `%%ring_kernel alarm
async def alarm(ctx):
    async for message in ctx:
        1 / 0
`;

/** A cell that blocks its kernel until `goOn`. */
export const BLOCK = `import os, time
GO_ON = os.environ["JPY_SESSION_NAME"] + ".on"
while not os.path.exists(GO_ON):
    time.sleep(0.02)
os.remove(GO_ON)
`;

/** A message of a comm that went through a web socket. */
export interface ICommMessage {
  to: 'kernel' | 'browser';
  type: string;
  text: string;
}

/**
 * What JupyterLab itself complains about: a notebook that is restored out of sight, one that is closed at once, a kernel
 * that is left while comms of it ask for their subshells, and a list of kernels of which one has just ended.
 */
const NOT_OURS = new RegExp(
  [
    "^TypeError: Cannot read properties of null \\(reading 'observe'\\)",
    '^Error while computing the ReactiveToolbar',
    '^Error: Canceled future for create_subshell_request',
    '^Failed to load resource: .* 500 .*/api/kernels\\?'
  ].join('|')
);

const AXE = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');

/** Two pages that share one would restore what the other has open. */
const WORKSPACE = `page-${process.pid}`;

let made = 0;

/** A page of JupyterLab. Whatever complains in its console fails the test. */
export class Lab {
  readonly complaints: string[] = [];
  /** What comms have said since it was last emptied. */
  comms: ICommMessage[] = [];

  constructor(readonly page: IJupyterLabPageFixture) {
    page.on('console', message => {
      if (message.type() === 'error') {
        this._complain(`${message.text()} (${message.location().url})`);
      }
    });
    page.on('pageerror', error => this._complain(error.stack ?? String(error)));
    page.on('websocket', socket => {
      const note = (to: ICommMessage['to']) => (frame: { payload: string | Buffer }) => {
        const text = frame.payload.toString('utf8' as never);
        const type = /"msg_type": ?"(comm_(?:open|msg|close))"/.exec(text)?.[1];
        if (type) {
          this.comms.push({ to, type, text: text.slice(0, 4000) });
        }
      };
      socket.on('framesent', note('kernel'));
      socket.on('framereceived', note('browser'));
    });
  }

  get panel(): Locator {
    return this.page.locator('#pydotcompute-panel');
  }

  get rows(): Locator {
    return this.panel.getByRole('option').and(this.page.locator('.pdc-lab-row'));
  }

  row(id: string): Locator {
    return this.rows.filter({ has: this.page.locator('.pdc-lab-id', { hasText: new RegExp(`^${id}$`) }) });
  }

  get details(): Locator {
    return this.panel.getByRole('region', { name: 'Details of' });
  }

  /** A tab with a view of a kernel that has such a part. */
  tab(part: string): Locator {
    return this.page.locator('.pdc-lab-tab .pydotcompute').filter({ has: this.page.locator(part) });
  }

  /** What the last act came to. */
  get said(): Locator {
    return this.panel.locator('.pdc-lab-said[role=status]');
  }

  button(name: string): Locator {
    return this.panel.getByRole('button', { name, exact: true });
  }

  async showPanel(): Promise<void> {
    await this.page.sidebar.openTab('pydotcompute-panel');
  }

  async hidePanel(): Promise<void> {
    await this.page.sidebar.close('left');
  }

  /** Write a notebook with these cells and open it; the last ones are not run. */
  async open(cells: string[], run = 0): Promise<Notebook> {
    const path = `notebook-${process.pid}-${++made}.ipynb`;
    this._paths.push(path);
    const content = {
      cells: cells.map((source, i) => ({
        cell_type: 'code',
        id: `cell-${i}`,
        metadata: {},
        outputs: [],
        execution_count: null,
        source
      })),
      metadata: { kernelspec: { name: 'python3', display_name: 'Python 3', language: 'python' } },
      nbformat: 4,
      nbformat_minor: 5
    };
    await this.page.evaluate(
      ([path, content]) =>
        window.jupyterapp.serviceManager.contents.save(path as string, {
          type: 'notebook',
          format: 'json',
          content
        }),
      [path, content] as const
    );
    const notebook = new Notebook(this, path);
    await notebook.show();
    for (let i = 0; i < run; i++) {
      await notebook.run(i);
    }
    return notebook;
  }

  async set(setting: string, value: boolean | number): Promise<void> {
    await this.page.evaluate(
      async ([setting, value]) => {
        const registry = await window.galata.getPlugin('@jupyterlab/apputils-extension:settings');
        await registry!.set('pydotcompute:plugin', setting as string, value);
      },
      [setting, value] as const
    );
  }

  /** Load the page again, once JupyterLab has kept that this notebook is open, and so many views. */
  async reload(notebook: Notebook, views = 0): Promise<void> {
    await this.page.evaluate(async () => {
      for (const widget of [...window.jupyterapp.shell.widgets('main')] as any[]) {
        await widget.context?.save();
      }
    });
    const kept = (): Promise<[string[], number]> =>
      this.page.evaluate(async workspace => {
        const { data } = await window.jupyterapp.serviceManager.workspaces.fetch(workspace);
        const names = new Set(JSON.stringify(data['layout-restorer:data'] ?? '').match(/"[\w-]+:(\\.|[^"\\])*"/g));
        const of = (kind: string) => [...names].filter(name => name.startsWith(`"${kind}:`));
        return [of('notebook').map(name => name.slice(10, -1)), of('pydotcompute-views').length];
      }, WORKSPACE);
    await expect.poll(kept).toEqual([[notebook.path], views]);
    await this.page.reload();
  }

  /** What axe-core finds serious or critical in parts of the page, in words. */
  async axe(selector: string): Promise<string[]> {
    if (!(await this.page.evaluate(() => 'axe' in window))) {
      await this.page.evaluate(source => (0, eval)(source), AXE);
    }
    return this.page.evaluate(async selector => {
      const include = [...document.querySelectorAll(selector)];
      if (!include.length) {
        throw new Error(`nothing matches ${selector}`);
      }
      const { violations } = await (window as any).axe.run({ include }, { resultTypes: ['violations'] });
      return violations
        .filter(({ impact }: any) => impact === 'serious' || impact === 'critical')
        .flatMap(({ id, nodes }: any) =>
          nodes.map(({ html, failureSummary }: any) => `${id}: ${html}: ${failureSummary}`)
        );
    }, selector);
  }

  /** Start a kernel that belongs to no notebook and run these cells in it; its id. */
  async startKernel(cells: string[]): Promise<string> {
    const [id, error] = await this.page.evaluate(async cells => {
      const { kernels } = window.jupyterapp.serviceManager;
      const kernel = await kernels.startNew({ name: 'python3' }, { handleComms: false });
      const { id } = kernel;
      let error = '';
      for (const code of cells) {
        const reply = await kernel.requestExecute({ code }).done;
        error ||= reply?.content.status === 'error' ? reply.content.evalue : '';
      }
      kernel.dispose();
      return [id, error] as const;
    }, cells);
    expect(error).toBe('');
    return id;
  }

  /** Close the tabs with views of kernels, one after the other. */
  async closeTabs(): Promise<void> {
    const icons = this.page
      .getByRole('tab')
      .filter({ hasText: /: (dashboard|trace|topology)$/ })
      .locator('.lm-TabBar-tabCloseIcon');
    for (let left = await icons.count(); left > 0; left--) {
      await icons.first().click();
      await expect(icons).toHaveCount(left - 1);
    }
  }

  /** End everything: the next test finds an empty JupyterLab. */
  async clear(): Promise<void> {
    await this.page.evaluate(async paths => {
      const { serviceManager, shell } = window.jupyterapp;
      for (const widget of [...shell.widgets('main')] as any[]) {
        await widget.context?.save();
        widget.dispose();
      }
      await serviceManager.sessions.refreshRunning();
      for (const { id, path } of [...serviceManager.sessions.running()]) {
        if (paths.includes(path)) {
          await serviceManager.sessions.shutdown(id);
        }
      }
    }, this._paths);
    this._paths = [];
  }

  private _complain(text: string): void {
    if (!NOT_OURS.test(text)) {
      this.complaints.push(text);
    }
  }

  /** Of the notebooks that were opened since. */
  private _paths: string[] = [];
}

/** An open notebook. */
export class Notebook {
  constructor(
    readonly lab: Lab,
    readonly path: string
  ) {}

  get page(): IJupyterLabPageFixture {
    return this.lab.page;
  }

  /** Open it, or bring it to the front, and wait for its kernel. */
  async show(): Promise<void> {
    await this.page.evaluate(
      async path => void (await window.jupyterapp.commands.execute('docmanager:open', { path, factory: 'Notebook' })),
      this.path
    );
    await this.ready();
  }

  async ready(): Promise<void> {
    await this.page.waitForFunction(path => {
      const panel = ([...window.jupyterapp.shell.widgets('main')] as any[]).find(
        ({ context }) => context?.path === path
      );
      const kernel = panel?.sessionContext?.session?.kernel;
      return panel?.context.isReady && kernel?.connectionStatus === 'connected' && kernel.status === 'idle';
    }, this.path);
  }

  cell(i: number): Locator {
    return this.page.locator('.jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook .jp-Cell').nth(i);
  }

  badge(i: number): Locator {
    return this.cell(i).locator('.pdc-lab-badge');
  }

  /** Start a cell, and wait for its end unless it blocks. */
  async run(i: number, blocks = false): Promise<void> {
    const failed = await this.page.evaluate(
      async ([path, i, blocks]) => {
        const panel = ([...window.jupyterapp.shell.widgets('main')] as any[]).find(
          ({ context }) => context?.path === path
        );
        panel.content.activeCellIndex = i;
        panel.content.deselectAll();
        const done = window.jupyterapp.commands.execute('notebook:run-cell');
        if (!blocks) {
          await done;
        }
        const outputs = panel.content.widgets[i as number].model.outputs.toJSON();
        return outputs.find(({ output_type }: any) => output_type === 'error')?.traceback.join('\n');
      },
      [this.path, i, blocks] as const
    );
    expect(failed).toBeUndefined();
  }

  /** Run code in its kernel, outside the cells; what it prints. */
  async execute(code: string): Promise<string> {
    const [text, error] = await this.page.evaluate(
      async ([path, code]) => {
        const panel = ([...window.jupyterapp.shell.widgets('main')] as any[]).find(
          ({ context }) => context?.path === path
        );
        const future = panel.sessionContext.session.kernel.requestExecute({ code, store_history: false });
        let text = '';
        let error: string | null = null;
        future.onIOPub = ({ header, content }: any) => {
          text += header.msg_type === 'stream' ? content.text : '';
          error = header.msg_type === 'error' ? content.traceback.join('\n') : error;
        };
        await future.done;
        return [text, error] as const;
      },
      [this.path, code] as const
    );
    expect(error).toBeNull();
    return text;
  }

  /** Let a `BLOCK` cell end. */
  async goOn(): Promise<void> {
    writeFileSync(join(process.env['UI_TESTS_FOLDER']!, 'notebooks', `${this.path}.on`), '');
    await this.ready();
  }

  async restartKernel(): Promise<void> {
    await this.page.evaluate(async path => {
      const panel = ([...window.jupyterapp.shell.widgets('main')] as any[]).find(
        ({ context }) => context?.path === path
      );
      await panel.sessionContext.session.kernel.restart();
    }, this.path);
    await this.ready();
  }

  async changeKernel(kernel: { id: string } | { name: string }): Promise<void> {
    await this.page.evaluate(
      async ([path, kernel]) => {
        const panel = ([...window.jupyterapp.shell.widgets('main')] as any[]).find(
          ({ context }) => context?.path === path
        );
        await panel.sessionContext.changeKernel(kernel);
      },
      [this.path, kernel] as const
    );
    await this.ready();
  }

  async write(i: number, source: string): Promise<void> {
    await this.page.evaluate(
      ([path, i, source]) => {
        const panel = ([...window.jupyterapp.shell.widgets('main')] as any[]).find(
          ({ context }) => context?.path === path
        );
        panel.content.widgets[i as number].model.sharedModel.setSource(source);
      },
      [this.path, i, source] as const
    );
  }

  /** Close its tab; its kernel goes on. */
  async close(): Promise<void> {
    await this.page.evaluate(async path => {
      const panel = ([...window.jupyterapp.shell.widgets('main')] as any[]).find(
        ({ context }) => context?.path === path
      );
      await panel.context.save();
      panel.dispose();
    }, this.path);
  }
}

/** Load JupyterLab in a new page. */
async function load(options: { browser: any; baseURL: string }): Promise<Lab> {
  let lab: Lab | undefined;
  const { page } = await galata.newPage({
    ...options,
    autoGoto: false,
    // Galata's answer to a restart is none that JupyterLab takes.
    mockKernels: false,
    mockSessions: false,
    // Galata's state forgets nothing that was closed.
    mockState: false,
    mockSettings: {
      ...galata.DEFAULT_SETTINGS,
      '@jupyterlab/docmanager-extension:plugin': { autosave: false },
      '@jupyterlab/apputils-extension:kernels-settings': {}
    },
    waitForApplication: async page => {
      await page.locator('#jupyterlab-splash').waitFor({ state: 'detached' });
      await page.evaluate(() => window.jupyterapp.restored);
    }
  });
  page.setDefaultTimeout(30_000);
  await page.setViewportSize({ width: 1300, height: 900 });
  lab = new Lab(page);
  await page.goto(`workspaces/${WORKSPACE}?reset`);
  return lab;
}

export const test = base.extend<{ quiet: void }, { lab: Lab }>({
  lab: [
    async ({ browser }, use, { project }) => {
      const lab = await load({ browser, baseURL: project.use.baseURL! });
      await use(lab);
      await lab.clear();
      await lab.page.context().close();
    },
    { scope: 'worker' }
  ],
  // Whatever the test is about, nothing may have complained.
  quiet: [
    async ({ lab }, use) => {
      lab.complaints.length = 0;
      await use();
      expect(lab.complaints).toEqual([]);
    },
    { auto: true }
  ]
});
