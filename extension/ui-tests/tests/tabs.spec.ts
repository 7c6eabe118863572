/** The kernel's own views in tabs of the main area. */
import { COUNTER, expect, LOAD, type Notebook, test } from './lab';

test.describe.configure({ mode: 'serial' });
test.beforeAll(({ lab }) => lab.clear());

const VIEWS = [
  ['dashboard', '.pdc-all'],
  ['trace', '.pdc-lanes'],
  ['topology', '.pdc-graph']
] as const;

let notebook: Notebook;

/** How many views the kernel has made for pages, and how many traces record. */
async function opened(): Promise<string> {
  return notebook.execute(
    'from pydotcompute.jupyter.panel import panel\n' +
      'from pydotcompute.telemetry.trace import Trace\n' +
      'print(len(panel._opened), sum(isinstance(one, Trace) for one in runtime._observers), end="")'
  );
}

test('they open', async ({ lab }) => {
  notebook = await lab.open([LOAD, COUNTER], 2);
  await lab.showPanel();
  for (const [view, seen] of VIEWS) {
    await notebook.show();
    await lab.panel.locator('.pdc-lab-foot').getByRole('button', { name: view }).click();
    await expect(lab.tab(seen)).toBeVisible();
  }
  expect(await opened()).toBe('3 1');
});

test('one that is there is not opened twice', async ({ lab }) => {
  await lab.panel.locator('.pdc-lab-foot').getByRole('button', { name: 'trace' }).click();
  await expect(lab.tab('.pdc-lanes')).toBeVisible();
  await expect(lab.page.locator('.pdc-lab-tab')).toHaveCount(3);
});

test('the kernel closes what is closed here', async ({ lab }) => {
  await lab.closeTabs();
  await expect.poll(opened).toBe('0 0');
});

test('details open the dashboard of one kernel', async ({ lab }) => {
  await lab.row('counter').click();
  await lab.details.getByRole('button', { name: 'Open dashboard' }).click();
  await expect(lab.page.locator('.pdc-lab-tab .pdc-embed')).toBeVisible();
  await lab.closeTabs();
  await expect.poll(opened).toBe('0 0');
});

test('they are there again after a reload', async ({ lab }) => {
  for (const [view, seen] of VIEWS) {
    await notebook.show();
    await lab.panel.locator('.pdc-lab-foot').getByRole('button', { name: view }).click();
    await expect(lab.tab(seen)).toBeVisible();
  }
  await lab.reload(notebook, 3);
  await notebook.ready();
  await expect(lab.page.locator('.pdc-lab-tab')).toHaveCount(3);
  for (const [view, seen] of VIEWS) {
    await lab.page.getByRole('tab', { name: `: ${view}` }).click();
    await expect(lab.tab(seen)).toBeVisible();
  }
});

test('they follow their notebook to another kernel', async ({ lab }) => {
  await notebook.restartKernel();
  await expect(lab.page.locator('.pdc-lab-tab').last()).toContainText('has no ring kernels: run its cells');
  await notebook.run(0);
  await notebook.run(1);
  for (const [view, seen] of VIEWS) {
    await lab.page.getByRole('tab', { name: `: ${view}` }).click();
    await expect(lab.tab(seen)).toBeVisible();
  }
  await lab.closeTabs();
  await expect.poll(opened).toBe('0 0');
});
