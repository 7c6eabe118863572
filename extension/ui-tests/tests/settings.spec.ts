/** Settings, and that nothing is said when nobody looks. */
import { COUNTER, expect, LOAD, type Notebook, test } from './lab';

test.describe.configure({ mode: 'serial' });
test.beforeAll(({ lab }) => lab.clear());

let notebook: Notebook;

test('the status bar tells of all kernels, and shows the panel', async ({ lab }) => {
  notebook = await lab.open([LOAD, COUNTER], 2);
  await lab.hidePanel();
  const status = lab.page.locator('.pdc-lab-status');
  await expect(status).toContainText('1 ring kernel · ');
  await status.click();
  await expect(lab.row('counter')).toBeVisible();
  await lab.set('statusBar', false);
  await expect(status).toHaveCount(0);
  await lab.set('statusBar', true);
  await expect(status).toContainText('1 ring kernel · ');
});

test('frames come at the rate that is set', async ({ lab }) => {
  for (const hz of [7, 3]) {
    await lab.set('refreshRate', hz);
    await expect
      .poll(() => lab.comms.filter(({ to }) => to === 'browser').at(-1)?.text)
      .toMatch(new RegExp(`"kind": ?"frame".*"hz": ?${hz}[.,]`));
    lab.comms = [];
  }
  await lab.set('refreshRate', 2);
});

test('nothing is said while nobody looks', async ({ lab }) => {
  await lab.set('badges', false);
  await lab.set('statusBar', false);
  await lab.hidePanel();
  // What was on its way has arrived by now.
  await notebook.execute('await runtime.send("counter", 1)');
  lab.comms = [];
  // The kernel's clock, for the time in which nothing may happen.
  await notebook.execute('import time; time.sleep(4); await runtime.send("counter", 2)');
  expect(lab.comms).toEqual([]);
  await lab.set('badges', true);
  await lab.set('statusBar', true);
  await expect(notebook.badge(1)).toBeVisible();
});
