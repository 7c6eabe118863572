/** A kernel that sends what it wants, see `hostile.py`: the panel says so, stays up, and goes on. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';

import { expect, type Notebook, test } from './lab';

test.describe.configure({ mode: 'serial' });
test.beforeAll(({ lab }) => lab.clear());

const HOSTILE = readFileSync(join(__dirname, '..', 'hostile.py'), 'utf8');

let notebook: Notebook;

/** What it sends, in Python, and what the panel then says. */
const SAID: readonly (readonly [string, string, RegExp])[] = [
  ['an id of 10 MB', 'frame(list={"matching": 1, "first": 0, "rows": [row(0, kernel="x" * 10**7)]})', /10,000,000/],
  ['a note of 10 MB', 'frame(list={"matching": 1, "first": 0, "rows": [row(0, note="x" * 10**7)]})', /10,000,000/],
  ['trouble of 10 MB', '{"version": 1, "kind": "trouble", "text": "x" * 10**7}', /10,000,000/],
  ['a kind of 10 MB', '{"version": 1, "kind": "x" * 10**7}', /10,000,000/],
  ['a field of 10 MB', 'frame(**{"x" * 10**7: 1})', /10,000,000/],
  [
    '100,000 rows',
    'frame(list={"matching": 100_000, "first": 0, "rows": [row(i) for i in range(100_000)]})',
    /a list of 100,000/
  ],
  ['100,000 results', 'frame(results=[None] * 100_000)', /a list of 100,000/],
  ['a negative counter', 'frame(list={"matching": 1, "first": 0, "rows": [row(0, depth=-1)]})', /depth is -1/],
  ['a negative count of kernels', 'frame(summary=summary(kernels=-5))', /kernels is -5/],
  ['a row that is too short', 'frame(list={"matching": 1, "first": 0, "rows": [row(0)[:-1]]})', /a list of 12/],
  ['a row that is too long', 'frame(list={"matching": 1, "first": 0, "rows": [row(0) + [1]]})', /a list of 14/],
  ['a row that is no list', 'frame(list={"matching": 1, "first": 0, "rows": ["row"]})', /"row"/],
  ['a state that there is not', 'frame(list={"matching": 1, "first": 0, "rows": [row(0, state=7)]})', /state is 7/],
  ['too few states', 'frame(summary=summary(states=[1, 2]))', /states is a list of 2/],
  ['a nested list', 'frame(runtimes=nested(500))', /runtimes/],
  ['no list', 'without("list")', /list is missing/],
  ['the next version', 'frame(version=2)', /version 2 of the wire, this page version 1/],
  ['no version', 'without("version")', /version missing/],
  ['an unknown kind', 'frame(kind="picture")', /"picture"/],
  ['a prototype', 'frame(**{"__proto__": {"harmed": True}, "kind": "frame"})', /__proto__/],
  ['trouble', '{"version": 1, "kind": "trouble", "text": HTML}', /<img/]
];

test('what makes no sense is told in words', async ({ lab }) => {
  notebook = await lab.open(['# nothing']);
  await lab.showPanel();
  await expect(lab.panel).toContainText('No ring kernels here');
  await notebook.execute(HOSTILE);
  await expect(lab.row('kernel-0')).toBeVisible();
  for (const [name, code, words] of SAID) {
    await test.step(name, async () => {
      await notebook.execute(`say(${code})`);
      await expect(lab.panel.locator('.pdc-lab-nothing')).toHaveText(words);
      await expect(lab.panel.getByRole('heading', { name: 'Not understood' })).toBeVisible();
      await notebook.execute('say(frame())');
      await expect(lab.rows).toHaveCount(3);
    });
  }
});

test('what nobody asked for changes nothing', async ({ lab }) => {
  await notebook.execute(`
for _ in range(100):
    say(frame(results=[{"request": "nobody", "ok": True, "text": HTML, "data": None}]))
    controls[-1].send({"version": 1, "kind": "acknowledgement", "refused": None})
names = "later-{}"
say(frame())`);
  await expect(lab.row('later-0')).toBeVisible();
});

test('HTML is drawn as text', async ({ lab }) => {
  await notebook.execute(`
names = HTML + "{}"
bad = row(0, tag=HTML, note=HTML, state=6)
def full(**changes):
    return frame(
        runtimes=[{"id": 1, "name": HTML, "status": "live", "kernels": 1}, {"id": 2, "name": HTML, "status": "closed", "kernels": 0}],
        list={"matching": 1, "first": 0, "rows": [bad]}, cells=[cell()], details=details(), **changes)
say(full())`);
  await expect(lab.rows).toHaveCount(1);
  await expect(lab.rows).toContainText('<img src="x"');
  await lab.rows.click();
  await notebook.execute('say(full())');
  await expect(lab.details.getByRole('alert')).toContainText('<script>');
  for (const summary of await lab.details.locator('summary').all()) {
    await summary.click();
  }
  await expect(notebook.badge(0)).toContainText('<img');
  await lab.button('Restart').click();
  await expect(lab.said).toContainText('<script>');
  const found = lab.page.locator('#pydotcompute-panel, .jp-Notebook, #jp-main-statusbar').locator('img, script');
  await expect(found).toHaveCount(0);
  expect(await lab.page.evaluate(() => (window as any).harmed)).toBeUndefined();
  await lab.panel.getByRole('listbox').press('Escape');
});

test('a row is there among 100,000', async ({ lab }) => {
  await notebook.execute('names, kernels = "kernel-{}", 100_000\nsay(frame())');
  await expect(lab.row('kernel-0')).toBeVisible();
  await expect(lab.panel.locator('.pdc-lab-head')).toContainText('100,000 active');
  await lab.panel.getByRole('listbox').evaluate(list => (list.scrollTop = list.scrollHeight));
  await expect(lab.row('kernel-99999')).toBeVisible();
  expect(await lab.rows.count()).toBeLessThan(100);
  await lab.panel.getByRole('listbox').evaluate(list => (list.scrollTop = 0));
  await expect(lab.row('kernel-0')).toBeVisible();
  await notebook.execute('kernels = 3\nsay(frame())');
  await expect(lab.rows).toHaveCount(3);
});

test('a comm that is closed by the kernel leaves words', async ({ lab }) => {
  await notebook.execute('for one in frames: one.close()\nframes.clear()');
  await expect(lab.panel).toContainText(/No ring kernels here|kernel-0/);
  await notebook.close();
  await expect(lab.panel).toContainText('No notebook is open');
});
