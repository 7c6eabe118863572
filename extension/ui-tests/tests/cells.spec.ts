/** Badges on the cells of a notebook. */
import { ALARM, COUNTER, expect, LOAD, type Notebook, test } from './lab';

test.describe.configure({ mode: 'serial' });
test.beforeAll(({ lab }) => lab.clear());

let notebook: Notebook;

test('a cell that defines a kernel tells how it is', async ({ lab }) => {
  notebook = await lab.open([LOAD, COUNTER, ALARM], 3);
  await expect(notebook.badge(1)).toHaveText('active · v1');
  await expect(notebook.badge(0)).toHaveCount(0);
  await notebook.execute('await runtime.deactivate("counter")\nfor i in range(3): await runtime.send("counter", i)');
  await expect(notebook.badge(1)).toHaveText('paused · v1 · 3 queued');
  await notebook.execute('await runtime.reactivate("counter")');
  await expect(notebook.badge(1)).toHaveText('active · v1');
});

test('a crash marks the cell', async ({ lab }) => {
  await notebook.execute('await runtime.send("alarm", 1)');
  await expect(notebook.badge(2)).toContainText('failed');
  await expect(notebook.badge(2)).toContainText('division by zero');
  await expect(notebook.cell(2)).toHaveClass(/pdc-lab-crashed/);
  await expect(notebook.cell(1)).not.toHaveClass(/pdc-lab-crashed/);
  await lab.hidePanel();
  await notebook.badge(2).click();
  await expect(lab.details.getByRole('alert')).toContainText('division by zero');
  await notebook.execute('await runtime.restart("alarm")');
  await expect(notebook.cell(2)).not.toHaveClass(/pdc-lab-crashed/);
});

test('a cell that was changed since says so', async () => {
  await notebook.write(1, `${COUNTER}# more`);
  await expect(notebook.badge(1)).toContainText('changed since it was run');
  await notebook.write(1, COUNTER);
  await expect(notebook.badge(1)).not.toContainText('changed');
  await notebook.write(1, `${COUNTER}# more`);
  await notebook.run(1);
  await expect(notebook.badge(1)).toHaveText('active · v2');
});

test('they can be turned off', async ({ lab }) => {
  await lab.set('badges', false);
  await expect(notebook.page.locator('.pdc-lab-badge')).toHaveCount(0);
  await expect(notebook.page.locator('.pdc-lab-defines')).toHaveCount(0);
  await lab.set('badges', true);
  await expect(notebook.badge(1)).toContainText('active');
});
