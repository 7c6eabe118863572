/** The side bar. */
import { ALARM, BLOCK, COUNTER, expect, LOAD, type Notebook, test } from './lab';

test.describe.configure({ mode: 'serial' });
test.beforeAll(({ lab }) => lab.clear());

let notebook: Notebook;

test('what is missing is told in words', async ({ lab }) => {
  await lab.showPanel();
  await expect(lab.panel).toContainText('No notebook is open');
  notebook = await lab.open([LOAD, COUNTER, ALARM, BLOCK]);
  await expect(lab.panel).toContainText('No ring kernels here');
  await expect(lab.panel.locator('code')).toHaveText(LOAD);
  await notebook.run(0);
  await expect(lab.panel).toContainText('No ring kernels yet');
  await notebook.run(1);
  await expect(lab.row('counter')).toContainText('active');
});

test('it lives while a cell blocks', async ({ lab }) => {
  await notebook.run(3, true);
  await lab.row('counter').click();
  await lab.button('Pause').click();
  await expect(lab.row('counter')).toContainText('paused');
  await lab.button('Resume').click();
  await expect(lab.row('counter')).toContainText('active');
  await notebook.goOn();
});

test('it finds pydotcompute while a cell blocks', async ({ lab }) => {
  const other = await lab.open([`import pydotcompute\n${BLOCK}`]);
  await other.run(0, true);
  await expect(lab.panel).toContainText('No ring kernels yet');
  await other.goOn();
  await other.close();
  await notebook.show();
});

test('every button acts', async ({ lab }) => {
  await lab.row('counter').click();
  await expect(lab.button('Activate')).toBeDisabled();
  await lab.button('Pause').click();
  await expect(lab.row('counter')).toContainText('paused');
  await notebook.execute('for i in range(3): await runtime.send("counter", i)');
  await expect(lab.row('counter').getByLabel('3 queued')).toBeVisible();
  await lab.button('Step').click();
  await expect(lab.row('counter').getByLabel('2 queued')).toBeVisible();
  await expect(lab.said).not.toBeEmpty();
  await lab.button('Resume').click();
  await expect(lab.row('counter')).toContainText('active');
  await expect(lab.row('counter').getByLabel('0 queued')).toBeVisible();
  await lab.button('Stop').click();
  await expect(lab.row('counter')).toContainText('ended');
  await expect(lab.button('Stop')).toBeDisabled();
  await lab.button('Restart').click();
  await expect(lab.row('counter')).toContainText('active');
  await notebook.execute('await runtime.launch("counter", kernel_id="late")');
  await lab.row('late').click();
  await expect(lab.row('late')).toContainText('launched');
  await lab.button('Activate').click();
  await expect(lab.row('late')).toContainText('active');
});

test('what the kernel refuses is told', async ({ lab }) => {
  await lab.row('late').click();
  await notebook.execute('await runtime.deactivate("late")');
  await expect(lab.row('late')).toContainText('paused');
  await lab.page.evaluate(() => window.jupyterapp.commands.execute('pydotcompute:activate'));
  const told = () => lab.page.evaluate(async () => JSON.stringify(await window.galata.getNotifications()));
  await expect.poll(told).toContain('late');
  await notebook.execute('await runtime.reactivate("late")');
});

test('a failed kernel shows its traceback and its cell', async ({ lab }) => {
  await notebook.run(2);
  await notebook.execute('await runtime.send("alarm", 1)');
  await expect(lab.row('alarm')).toContainText('failed');
  await lab.row('alarm').click();
  await expect(lab.details.getByRole('alert')).toContainText('division by zero');
  await lab.details.getByText('Traceback', { exact: true }).click();
  await expect(lab.details.locator('pre').first()).toContainText('1 / 0');
  await lab.details.getByText(/^Source/).click();
  await expect(lab.details.locator('pre').last()).toContainText('async def alarm');
  await notebook.page.evaluate(() => ((window.jupyterapp.shell.currentWidget as any).content.activeCellIndex = 0));
  await lab.details.getByRole('button', { name: 'Go to its cell' }).click();
  await expect
    .poll(() => notebook.page.evaluate(() => (window.jupyterapp.shell.currentWidget as any).content.activeCellIndex))
    .toBe(2);
  await lab.button('Close details').click();
  await expect(lab.details).toHaveCount(0);
});

test('it is filtered and sorted', async ({ lab }) => {
  const filter = lab.panel.getByRole('searchbox');
  await filter.fill('failed al');
  await expect(lab.rows).toHaveCount(1);
  await expect(lab.row('alarm')).toBeVisible();
  await filter.fill('nobody');
  await expect(lab.panel).toContainText('No kernel matches “nobody”.');
  await filter.fill('');
  const ids = lab.rows.locator('.pdc-lab-id');
  await expect(ids).toHaveText(['alarm', 'counter', 'late']);
  await lab.button('Lowest first').click();
  await expect(ids).toHaveText(['late', 'counter', 'alarm']);
  await lab.panel.getByLabel('Sort by').selectOption('errors');
  await expect(ids.first()).toHaveText('alarm');
  await lab.panel.getByLabel('Sort by').selectOption('kernel');
  await expect(ids).toHaveText(['alarm', 'counter', 'late']);
});

test('the keyboard moves through it', async ({ lab }) => {
  const list = lab.panel.getByRole('listbox');
  const selected = lab.rows.and(lab.page.locator('[aria-selected=true]')).locator('.pdc-lab-id');
  await list.focus();
  for (const [key, id] of [
    ['ArrowDown', 'alarm'],
    ['ArrowDown', 'counter'],
    ['ArrowUp', 'alarm'],
    ['End', 'late'],
    ['PageUp', 'alarm'],
    ['PageDown', 'late'],
    ['Home', 'alarm']
  ] as const) {
    await list.press(key);
    await expect(selected).toHaveText(id);
  }
  await expect(lab.details).toContainText('alarm');
  await list.press('Escape');
  await expect(selected).toHaveCount(0);
});

for (const theme of ['JupyterLab Light', 'JupyterLab Dark']) {
  test(`whoever cannot see it well can use it: ${theme}`, async ({ lab }) => {
    await lab.page.theme.setTheme(theme);
    await lab.row('alarm').click();
    await expect(lab.details).toBeVisible();
    expect(await lab.axe('#pydotcompute-panel')).toEqual([]);
    expect(await lab.axe('.pdc-lab-badge, .pdc-lab-status')).toEqual([]);
  });
}
