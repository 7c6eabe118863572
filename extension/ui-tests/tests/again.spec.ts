/** What is opened and closed a hundred times leaves nothing behind. */
import { COUNTER, expect, type Lab, LOAD, type Notebook, test } from './lab';

test.describe.configure({ mode: 'serial' });
test.beforeAll(({ lab }) => lab.clear());

const CYCLES = 100;

let notebook: Notebook;

/** What a page and a kernel hold, after all that can be collected was. */
interface IHeld {
  heap: number;
  listeners: number;
  nodes: number;
  views: number;
  comms: number;
  /** Threads of the kernel. */
  threads: number;
}

async function held(lab: Lab): Promise<IHeld> {
  const client = await lab.page.context().newCDPSession(lab.page.context().pages()[0]!);
  await client.send('Performance.enable');
  await client.send('HeapProfiler.enable');
  for (let i = 0; i < 3; i++) {
    await client.send('HeapProfiler.collectGarbage');
  }
  const { metrics } = await client.send('Performance.getMetrics');
  const of = (name: string): number => metrics.find(metric => metric.name === name)!.value;
  await client.detach();
  const [views, comms, threads] = JSON.parse(
    await notebook.execute(
      'import comm, threading\nfrom pydotcompute.jupyter.panel import panel\n' +
        'print([len(panel._views), len(comm.get_comm_manager().comms), threading.active_count()])'
    )
  );
  return {
    heap: of('JSHeapUsedSize') / 2 ** 20,
    listeners: of('JSEventListeners'),
    nodes: of('Nodes'),
    views,
    comms,
    threads
  };
}

/** Do something in the page again and again: each time until there is such an element, and until there is none. */
async function repeat(lab: Lab, what: 'panel' | 'notebook', times: number): Promise<void> {
  await lab.page.evaluate(
    async ([what, times, path]) => {
      const { commands, shell } = window.jupyterapp as any;
      const until = async (done: () => unknown): Promise<void> => {
        const end = Date.now() + 15_000;
        while (!done()) {
          await new Promise(requestAnimationFrame);
          if (Date.now() > end) {
            throw new Error(`it says ${document.querySelector('#pydotcompute-panel')?.textContent}`);
          }
        }
      };
      const row = () => document.querySelector('#pydotcompute-panel .pdc-lab-row');
      for (let i = 0; i < times; i++) {
        if (what === 'panel') {
          await commands.execute('pydotcompute:show-panel');
          await until(() => row()?.checkVisibility());
          shell.collapseLeft();
        } else {
          shell.currentWidget.dispose();
          await until(() => !row());
          await commands.execute('docmanager:open', { path, factory: 'Notebook' });
          await until(row);
        }
      }
    },
    [what, times, notebook.path] as const
  );
}

test('the panel', async ({ lab }) => {
  notebook = await lab.open([LOAD, COUNTER], 2);
  await repeat(lab, 'panel', 10);
  const before = await held(lab);
  await repeat(lab, 'panel', CYCLES);
  const after = await held(lab);
  expect(after.views).toBe(before.views);
  expect(after.comms).toBe(before.comms);
  expect(after.listeners - before.listeners).toBeLessThan(2 * CYCLES);
  expect(after.nodes - before.nodes).toBeLessThan(3 * CYCLES);
  expect(after.heap - before.heap).toBeLessThan(2);
});

/** How many objects of the class of this one there are. */
async function alive(lab: Lab, one: string): Promise<number> {
  const client = await lab.page.context().newCDPSession(lab.page.context().pages()[0]!);
  const prototype = await client.send('Runtime.evaluate', { expression: `Object.getPrototypeOf(${one})` });
  const { objects } = await client.send('Runtime.queryObjects', { prototypeObjectId: prototype.result.objectId! });
  const { result } = await client.send('Runtime.callFunctionOn', {
    objectId: objects.objectId!,
    functionDeclaration: 'function () { return this.length; }',
    returnByValue: true
  });
  await client.detach();
  return result.value as number;
}

// JupyterLab itself keeps some 2,600 listeners and 1,000 nodes of each notebook that was closed: what is counted here is
// what is ours.
test('a notebook', async ({ lab }) => {
  test.setTimeout(240_000);
  await lab.showPanel();
  await lab.page.evaluate(async () => {
    const model: any = await window.galata.getPlugin('pydotcompute:kernels' as never);
    Object.assign(window, { source: () => model.sources[0] });
  });
  const before = await held(lab);
  await repeat(lab, 'notebook', CYCLES);
  // The kernel hears last that the former page has left.
  await expect.poll(async () => (await held(lab)).views).toBe(before.views);
  const after = await held(lab);
  expect(after.comms).toBe(before.comms);
  expect(after.threads - before.threads).toBeLessThan(5);
  await expect(notebook.badge(1)).toBeVisible();
  expect(await alive(lab, 'window.source().session')).toBeLessThan(5);
  expect(await alive(lab, 'document.querySelector(".pdc-lab-row")')).toBeGreaterThan(0);
});
