import { Signal } from '@lumino/signaling';

import { Model } from '../model';
import { Session } from '../session';
import type { ISource } from '../tokens';
import { track } from '../tracker';
import { FakeContext, FakeKernel, frame } from './fakes';

const rendermime = {} as ISource['rendermime'];
let model: Model;
let changes: number;

function source(id: string, kernel = new FakeKernel()): ISource & { session: Session; kernel: FakeKernel } {
  const session = new Session(new FakeContext(kernel).given);
  return { id, name: id, path: `${id}.ipynb`, session, kernel, rendermime, revealer: () => null };
}

beforeEach(() => {
  jest.useFakeTimers();
  model = new Model();
  changes = 0;
  model.changed.connect(() => changes++);
});

afterEach(() => {
  model.dispose();
  expect(jest.getTimerCount()).toBe(0);
  jest.useRealTimers();
});

describe('which notebook is shown', () => {
  it('is the one in front', () => {
    const [a, b] = [source('a'), source('b')];
    model.add(a);
    model.add(b);
    expect(model.current).toBeNull();
    model.front('a');
    expect(model.current).toBe(a);
    model.front('b');
    expect(model.current).toBe(b);
    expect(model.sources).toEqual([a, b]);
  });

  it('is the one that was chosen, as long as it is open', () => {
    const [a, b] = [source('a'), source('b')];
    model.add(a);
    model.add(b);
    model.front('a');
    model.pinned = 'b';
    expect(model.current).toBe(b);
    model.front('b');
    model.front('a');
    expect(model.current).toBe(b);
    model.remove('b');
    expect([model.pinned, model.current]).toEqual([null, a]);
    model.pinned = 'a';
    model.pinned = null;
    expect(model.current).toBe(a);
  });

  it('may be in front before it is known', () => {
    model.front('a');
    expect(model.current).toBeNull();
    const a = source('a');
    model.add(a);
    expect(model.current).toBe(a);
  });

  it('is none when it is closed, whose session ends', () => {
    const a = source('a');
    let others = 0;
    model.sourcesChanged.connect(() => others++);
    model.add(a);
    model.front('a');
    model.remove('a');
    model.remove('a');
    expect([model.current, model.sources.length, a.session.isDisposed, others]).toEqual([null, 0, true, 2]);
  });

  it('tells of its session alone', async () => {
    const [a, b] = [source('a'), source('b')];
    for (const each of [a, b]) {
      model.add(each);
      each.session.wish('test', { summary: true });
    }
    await jest.advanceTimersByTimeAsync(0);
    model.front('a');
    changes = 0;
    b.kernel.sends(frame());
    expect(changes).toBe(0);
    a.kernel.sends(frame());
    expect(changes).toBeGreaterThan(0);
    model.front('b');
    changes = 0;
    a.kernel.sends(frame());
    expect(changes).toBe(0);
  });

  it('is the other one with its kernel, where that has the comms', async () => {
    const one = new FakeKernel();
    const same = Object.assign(new FakeKernel(), { id: one.id, handleComms: false });
    const [notebook, console] = [source('notebook', one), source('console', same)];
    for (const each of [source('stranger'), notebook, console]) {
      model.add(each);
      each.session.wish('test', { summary: true });
    }
    model.front('console');
    await jest.advanceTimersByTimeAsync(0);
    expect([console.session.phase, model.current?.id]).toEqual(['shared', 'notebook']);
    changes = 0;
    one.sends(frame());
    expect(changes).toBeGreaterThan(0);
    // Restarted, or with another kernel, it may speak for itself.
    same.becomes('restarting');
    expect(model.current?.id).toBe('console');
    same.becomes('idle');
    await jest.advanceTimersByTimeAsync(0);
    expect(model.current?.id).toBe('notebook');
    model.remove('notebook');
    expect(model.current?.id).toBe('console');
  });

  it('has kernels of its own to select', () => {
    model.add(source('a'));
    model.add(source('b'));
    model.front('a');
    model.selected = { runtime: 1, kernel: 'stats' };
    model.front('a');
    expect(model.selected).toEqual({ runtime: 1, kernel: 'stats' });
    model.front('b');
    expect(model.selected).toBeNull();
  });
});

describe('the list', () => {
  it('is sorted by a column, and once more the other way round', () => {
    expect([model.sort, model.descending]).toEqual(['kernel', false]);
    model.sortBy('kernel');
    expect([model.sort, model.descending]).toEqual(['kernel', true]);
    model.sortBy('rate');
    expect([model.sort, model.descending]).toEqual(['rate', true]);
    model.sortBy('rate');
    expect([model.sort, model.descending]).toEqual(['rate', false]);
    model.sortBy('kernel');
    expect([model.sort, model.descending]).toEqual(['kernel', false]);
    expect(changes).toBe(4);
  });

  it('is filtered, which is told once', () => {
    model.filter = 'stats';
    model.filter = 'stats';
    expect([model.filter, changes]).toEqual(['stats', 1]);
  });
});

it('ends with all its sessions', () => {
  const [a, b] = [source('a'), source('b')];
  model.add(a);
  model.add(b);
  model.front('a');
  changes = 0;
  model.dispose();
  model.dispose();
  expect([a.session.isDisposed, b.session.isDisposed, model.isDisposed, model.current]).toEqual([
    true,
    true,
    true,
    null
  ]);
  expect(changes).toBe(0);
});

describe('what JupyterLab has open', () => {
  class Panel {
    constructor(readonly id: string) {
      this.sessionContext = Object.assign(new FakeContext(new FakeKernel()), { path: `${id}.ipynb` });
      this.title = { label: id, changed: new Signal<object, void>({}) };
    }

    readonly sessionContext;
    readonly title;
    readonly disposed = new Signal<this, void>(this);
    readonly content = {
      rendermime,
      widgets: [{ model: { id: 'first' } }, { model: { id: 'second' } }],
      activeCellIndex: 0,
      scrolled: [] as unknown[],
      scrollToItem: async (...to: unknown[]): Promise<void> => void this.content.scrolled.push(to)
    };
    readonly console = { rendermime };
  }

  class Tracker {
    constructor(...panels: Panel[]) {
      this._panels = panels;
      this.currentWidget = panels[0] ?? null;
    }

    currentWidget: Panel | null;
    readonly widgetAdded = new Signal<this, Panel>(this);
    readonly currentChanged = new Signal<this, Panel | null>(this);

    forEach(act: (panel: Panel) => void): void {
      this._panels.forEach(act);
    }

    focus(panel: Panel | null): void {
      this.currentWidget = panel;
      this.currentChanged.emit(panel);
    }

    private _panels: Panel[];
  }

  class Shell {
    currentWidget: { id: string } | null = null;
    readonly currentChanged = new Signal<this, object>(this);
    activated: string[] = [];

    activateById(id: string): void {
      this.activated.push(id);
    }

    focus(widget: { id: string }): void {
      this.currentWidget = widget;
      this.currentChanged.emit({});
    }
  }

  function watch(notebooks: Tracker, consoles: Tracker | null): Shell {
    const shell = new Shell();
    track(model, { shell } as any, notebooks as any, consoles as any);
    return shell;
  }

  const shown = (): string | undefined => model.current?.id;

  it('is known, whether opened before or after', () => {
    const [a, b, c] = [new Panel('a'), new Panel('b'), new Panel('c')];
    const [notebooks, consoles] = [new Tracker(a), new Tracker()];
    watch(notebooks, consoles);
    expect(shown()).toBe('a');
    notebooks.widgetAdded.emit(b);
    consoles.widgetAdded.emit(c);
    notebooks.focus(b);
    expect(model.sources.map(({ id, name, path }) => [id, name, path])).toEqual([
      ['a', 'a', 'a.ipynb'],
      ['b', 'b', 'b.ipynb'],
      ['c', 'c', 'c.ipynb']
    ]);
    expect(shown()).toBe('b');
  });

  it('is followed from a notebook to a console and back, and stays when a text comes to the front', () => {
    const [a, c] = [new Panel('a'), new Panel('c')];
    const [notebooks, consoles] = [new Tracker(a), new Tracker(c)];
    const shell = watch(notebooks, consoles);
    shell.focus(c);
    expect(shown()).toBe('c');
    shell.focus(a);
    expect(shown()).toBe('a');
    shell.focus({ id: 'README.md' });
    expect(shown()).toBe('a');
    notebooks.focus(null);
    expect(shown()).toBe('a');
  });

  it('has its new name when it gets one', () => {
    const a = new Panel('a');
    watch(new Tracker(a), null);
    a.title.label = 'work';
    a.title.changed.emit();
    expect(changes).toBeGreaterThan(0);
    expect(model.sources[0]?.name).toBe('work');
  });

  it('is forgotten when it is closed', () => {
    const a = new Panel('a');
    watch(new Tracker(a), null);
    const { session } = model.sources[0]!;
    a.disposed.emit();
    expect([model.sources.length, session.isDisposed]).toEqual([0, true]);
  });

  it('leads to the cell that defined a kernel, if it is still there', () => {
    const [a, c] = [new Panel('a'), new Panel('c')];
    const shell = watch(new Tracker(a), new Tracker(c));
    const [notebook, console] = model.sources;
    expect([notebook!.revealer('third'), notebook!.revealer(null), console!.revealer('first')]).toEqual([
      null,
      null,
      null
    ]);
    notebook!.revealer('second')!();
    expect(shell.activated).toEqual(['a']);
    expect([a.content.activeCellIndex, a.content.scrolled]).toEqual([1, [[1, 'center']]]);
  });
});
