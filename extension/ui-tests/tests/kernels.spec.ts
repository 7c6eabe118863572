/** Kernels that are restarted and exchanged, notebooks that are changed, closed and opened again. */
import { COUNTER, expect, LOAD, type Notebook, test } from './lab';

test.describe.configure({ mode: 'serial' });
test.beforeAll(({ lab }) => lab.clear());

const OTHER = COUNTER.replaceAll('counter', 'other');

let one: Notebook;
let two: Notebook;

test('after a reload all is there again', async ({ lab }) => {
  one = await lab.open([LOAD, COUNTER], 2);
  await lab.showPanel();
  await expect(lab.row('counter')).toBeVisible();
  await expect(one.badge(1)).toBeVisible();
  await lab.reload(one);
  await one.show();
  await lab.showPanel();
  await expect(lab.row('counter')).toContainText('active');
  await expect(one.badge(1)).toHaveText('active · v1');
});

test('after a restart of the kernel it begins anew', async ({ lab }) => {
  await one.restartKernel();
  await expect(lab.panel).toContainText('No ring kernels here');
  await expect(one.badge(1)).toHaveCount(0);
  await one.run(0);
  await one.run(1);
  await expect(lab.row('counter')).toContainText('active');
  await expect(one.badge(1)).toHaveText('active · v1');
});

test('it follows the notebook in front, and stays with one that was chosen', async ({ lab }) => {
  two = await lab.open([LOAD, OTHER], 2);
  await expect(lab.row('other')).toBeVisible();
  await expect(lab.row('counter')).toHaveCount(0);
  await one.show();
  await expect(lab.row('counter')).toBeVisible();
  const which = lab.panel.getByLabel('Which notebook');
  await which.selectOption({ label: two.path });
  await expect(lab.row('other')).toBeVisible();
  await two.show();
  await one.show();
  await expect(lab.row('other')).toBeVisible();
  await which.selectOption('');
  await expect(lab.row('counter')).toBeVisible();
});

test('a notebook that gets another kernel shows the kernels of that', async ({ lab }) => {
  const id = await lab.startKernel([LOAD, COUNTER.replaceAll('counter', 'elsewhere')]);
  await one.changeKernel({ id });
  await expect(lab.row('elsewhere')).toBeVisible();
  await expect(one.badge(1)).toHaveCount(0);
  await one.changeKernel({ name: 'python3' });
  await expect(lab.panel).toContainText('No ring kernels here');
  await one.run(0);
  await one.run(1);
  await expect(lab.row('counter')).toBeVisible();
});

test('a kernel that dies leaves words', async ({ lab }) => {
  await one.page.evaluate(async path => {
    const panel = ([...window.jupyterapp.shell.widgets('main')] as any[]).find(({ context }) => context?.path === path);
    await panel.sessionContext.shutdown();
  }, one.path);
  await expect(lab.panel).toContainText('No kernel');
  await expect(one.badge(1)).toHaveCount(0);
});

test('a notebook that is closed is gone, and there when it is opened again', async ({ lab }) => {
  await two.show();
  await expect(lab.row('other')).toBeVisible();
  await two.close();
  await expect(lab.row('other')).toHaveCount(0);
  await expect(lab.panel.getByLabel('Which notebook').locator('option', { hasText: two.path })).toHaveCount(0);
  await one.close();
  await expect(lab.panel).toContainText('No notebook is open');
  await two.show();
  await expect(lab.row('other')).toBeVisible();
});
