import { PromiseDelegate } from '@lumino/coreutils';

import { CONTROL, MOST_GONE } from '../protocol';
import { Session } from '../session';
import { FakeContext, FakeKernel, frame } from './fakes';

let kernel: FakeKernel;
let context: FakeContext;
let session: Session;
let phases: string[];

/** A session of which one part wants the summary. */
function begin(wish: object | null = { hz: 2, summary: true }): void {
  context = new FakeContext(kernel);
  session = new Session(context.given);
  phases = [session.phase];
  session.changed.connect(({ phase }) => phase !== phases.at(-1) && phases.push(phase));
  session.wish('test', wish);
}

const settle = (milliseconds = 0): Promise<void> => jest.advanceTimersByTimeAsync(milliseconds);

async function live(): Promise<void> {
  begin();
  await settle();
  kernel.sends(frame());
  expect(session.phase).toBe('live');
}

function hide(hidden: boolean): void {
  Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
  document.dispatchEvent(new Event('visibilitychange'));
}

beforeEach(() => {
  jest.useFakeTimers();
  kernel = new FakeKernel();
});

afterEach(() => {
  session.dispose();
  expect(jest.getTimerCount()).toBe(0);
  hide(false);
  jest.useRealTimers();
});

describe('finding', () => {
  it('asks on the control channel, and opens both comms with the same hello', async () => {
    begin();
    await settle();
    expect(kernel.asked).toHaveLength(1);
    expect(kernel.asked[0]).toMatchObject({ channel: 'control', content: { target_name: CONTROL } });
    expect(kernel.asked[0].header.msg_type).toBe('comm_info_request');
    expect(kernel.control.opened).toMatchObject({ version: 1, kind: 'hello' });
    expect(kernel.frames.opened).toEqual(kernel.control.opened);
    expect(kernel.frames.sent).toEqual([]);
    expect(session.phase).toBe('connecting');
    kernel.sends(frame({ number: 7 }));
    expect(session.phase).toBe('live');
    expect(session.frame?.number).toBe(7);
  });

  it('tells the kernel which views this page has closed last, as word of that can be lost', async () => {
    await live();
    const { panel, gone } = kernel.control.opened;
    session.dispose();
    await live();
    expect(kernel.control.opened.gone).toEqual([...gone, panel]);
    const second = kernel.control.opened.panel;
    kernel.connection('disconnected');
    kernel.connection('connected');
    await settle();
    expect(kernel.control.opened.gone.slice(-2)).toEqual([panel, second]);
    for (let i = 0; i < 2 * MOST_GONE; i++) {
      session.dispose();
      await live();
    }
    expect(kernel.control.opened.gone).toHaveLength(MOST_GONE);
    expect(kernel.control.opened.gone).not.toContain(panel);
  });

  it('opens nothing on a kernel without pydotcompute, and finds it when the cell that imports it is done', async () => {
    kernel.imported = false;
    begin();
    await settle();
    expect(session.phase).toBe('absent');
    expect(kernel.comms).toEqual([]);
    kernel.becomes('busy');
    kernel.imported = true;
    kernel.becomes('idle');
    await settle();
    expect(kernel.control.opened).not.toBeNull();
  });

  it('finds it while the cell that imports it still runs, asking every 2 s', async () => {
    kernel.imported = false;
    kernel.status = 'busy';
    begin();
    await settle();
    const asked = kernel.asked.length;
    await settle(6000);
    expect(kernel.asked).toHaveLength(asked + 3);
    kernel.imported = true;
    await settle(2000);
    expect(kernel.control.opened).not.toBeNull();
  });

  it('asks one question at a time, and none when nothing is wanted', async () => {
    kernel.answers = false;
    begin(null);
    kernel.becomes('idle');
    expect(kernel.asked).toEqual([]);
    session.wish('test', { summary: true });
    kernel.becomes('busy');
    kernel.becomes('idle');
    await settle(10_000);
    expect(kernel.asked).toHaveLength(1);
  });

  it('waits for the subshells before it opens, and not for ever', async () => {
    kernel.subshells = new PromiseDelegate();
    begin();
    await settle(1000);
    session.wish('test', { hz: 4, summary: true });
    await settle(1000);
    expect(kernel.control.opened).toBeNull();
    await settle(1000);
    expect(kernel.control.opened).not.toBeNull();
    expect(kernel.told('look')).toMatchObject([{ hz: 4 }]);
  });

  it('opens as soon as the subshells are there', async () => {
    kernel.subshells = new PromiseDelegate();
    begin();
    await settle();
    kernel.subshells.resolve();
    await settle();
    expect(kernel.control.opened).not.toBeNull();
  });

  it('says when a notebook has no comms', async () => {
    kernel.createComm = () => {
      throw new Error('Comms are disabled on this kernel connection');
    };
    begin();
    await settle();
    expect(session.phase).toBe('refused');
    expect(session.problem).toContain('Comms are disabled');
  });

  it('has nothing to do without a kernel', async () => {
    context = new FakeContext(null);
    session = new Session(context.given);
    await settle(10_000);
    expect(session.phase).toBe('none');
  });
});

describe('wishes', () => {
  const list = { filter: '', sort: 'kernel', descending: false, first: 0, count: 40 } as const;

  it('are merged, and sent when they change', async () => {
    await live();
    expect(kernel.told('look')).toEqual([
      { version: 1, kind: 'look', hz: 2, visible: true, summary: true, cells: false, list: null, details: null }
    ]);
    session.wish('badges', { hz: 1, cells: true });
    session.wish('panel', { hz: 4, list });
    session.wish('details', { details: { runtime: 1, kernel: 'stats' } });
    expect(kernel.told('look').slice(1)).toMatchObject([
      { hz: 2, summary: true, cells: true, list: null },
      { hz: 4, summary: true, cells: true, list, details: null },
      { hz: 4, list, details: { runtime: 1, kernel: 'stats' } }
    ]);
    session.wish('details', { details: { runtime: 1, kernel: 'stats' } });
    session.wish('panel', { hz: 4, list });
    expect(kernel.told('look')).toHaveLength(4);
    session.wish('panel', null);
    expect(kernel.told('look').at(-1)).toMatchObject({ hz: 2, list: null, details: { kernel: 'stats' } });
  });

  it('of the part that spoke last count, where there can be only one', async () => {
    await live();
    session.wish('one', { list });
    session.wish('other', { list: { ...list, first: 80 } });
    expect(kernel.told('look').at(-1).list.first).toBe(80);
    session.wish('one', { list: { ...list, first: 40 } });
    expect(kernel.told('look').at(-1).list.first).toBe(40);
  });

  it('that are all gone leave a view out of sight', async () => {
    await live();
    session.wish('test', null);
    expect(kernel.told('look').at(-1)).toMatchObject({ hz: 1, visible: false, summary: false, cells: false });
  });

  it('say that the page is hidden, and that it is seen again', async () => {
    await live();
    hide(true);
    expect(kernel.told('look').at(-1)).toMatchObject({ visible: false, summary: true });
    hide(false);
    expect(kernel.told('look').at(-1)).toMatchObject({ visible: true, summary: true });
    expect(kernel.told('look')).toHaveLength(3);
  });

  it('that the kernel refuses are a problem, until the next frame', async () => {
    await live();
    kernel.acknowledges();
    kernel.acknowledges('hz must be above 0');
    expect([session.phase, session.problem]).toEqual(['refused', 'hz must be above 0']);
    kernel.sends(frame());
    expect([session.phase, session.problem]).toEqual(['live', '']);
  });

  it('are held up by a sign of life, with the number of the latest frame', async () => {
    await live();
    kernel.sends(frame({ number: 41 }));
    await settle(10_000);
    const said = kernel.told('received');
    expect(said.length).toBeGreaterThan(0);
    expect(said.length).toBeLessThanOrEqual(10);
    expect(said.at(-1)).toEqual({ version: 1, kind: 'received', number: 41 });
  });

  it('of a hidden page are held up rarely, but before the kernel forgets it', async () => {
    await live();
    hide(true);
    await settle(30_000);
    expect(kernel.told('received').length).toBeLessThanOrEqual(1);
    await settle(570_000);
    expect(kernel.told('received').length).toBeGreaterThan(0);
  });
});

describe('what makes no sense', () => {
  it.each([
    ['another version', frame({ version: 2 }), /speaks version 2 .* restart the kernel and reload the page/],
    ['negative counters', frame({ number: -1 }), /number is -1/],
    ['no object', 'frame', /the message is "frame"/],
    ['an unknown kind', { version: 1, kind: 'picture' }, /kind is "picture"/],
    ['an acknowledgement among frames', { version: 1, kind: 'acknowledgement', refused: null }, /was not told/],
    ['trouble', { version: 1, kind: 'trouble', text: 'the panel is out of order' }, /^the panel is out of order$/]
  ])('%s is refused in words, and forgotten with the next good frame', async (_, data, words) => {
    await live();
    kernel.sends(data);
    expect(session.phase).toBe('refused');
    expect(session.problem).toMatch(words);
    expect(session.frame).toBeNull();
    kernel.sends(frame({ number: 2 }));
    expect([session.phase, session.problem, session.frame?.number]).toEqual(['live', '', 2]);
  });
});

describe('requests', () => {
  const result = (request: string, ok: boolean, text: string, data: object | null = null): object =>
    frame({ results: [{ request, ok, text, data }] });

  it('are answered by a later frame, which may say so more than once', async () => {
    await live();
    const paused = session.command('pause', 1, 'stats');
    const { request, ...rest } = kernel.told('command')[0];
    expect(rest).toEqual({ version: 1, kind: 'command', verb: 'pause', runtime: 1, kernel: 'stats' });
    kernel.sends(result(request, true, 'stats is paused'));
    kernel.sends(result(request, true, 'stats is paused'));
    kernel.sends(result(request, false, 'no longer'));
    await expect(paused).resolves.toBe('stats is paused');
    expect(session.phase).toBe('live');
  });

  it('reject with what the kernel says against them', async () => {
    await live();
    const stopped = session.command('stop', 1, 'stats');
    kernel.sends(result(kernel.told('command')[0].request, false, 'stats has been stopped'));
    await expect(stopped).rejects.toThrow('stats has been stopped');
  });

  it('reject when the kernel does not even take them', async () => {
    await live();
    kernel.acknowledges(); // hello
    kernel.acknowledges(); // look
    const step = session.command('step', 1, 'stats');
    kernel.acknowledges('the view has no such runtime');
    await expect(step).rejects.toThrow('the view has no such runtime');
    expect(session.phase).toBe('live');
  });

  it('make views and close them', async () => {
    await live();
    const opened = session.open('dashboard', 1, null);
    const { request, ...rest } = kernel.told('open')[0];
    expect(rest).toMatchObject({ view: 'dashboard', runtime: 1, kernel: null });
    kernel.sends(result(request, true, '', { model: 'abc' }));
    await expect(opened).resolves.toBe('abc');
    const closed = session.close('abc');
    kernel.sends(result(kernel.told('close')[0].request, true, ''));
    await expect(closed).resolves.toBeUndefined();
    const nothing = session.open('trace', 1, 'stats');
    kernel.sends(result(kernel.told('open')[1].request, true, ''));
    await expect(nothing).rejects.toThrow('made no view');
  });

  it('are not made without a connection, and end with it', async () => {
    begin();
    await expect(session.command('pause', 1, 'stats')).rejects.toThrow('there is no connection');
    await settle();
    kernel.sends(frame());
    const pending = session.command('pause', 1, 'stats');
    kernel.connection('connecting');
    await expect(pending).rejects.toThrow('the connection to the kernel was lost');
  });
});

describe('what happens to kernels', () => {
  it('restart: connected comes before starting and idle, and another question after it', async () => {
    await live();
    const { control } = kernel;
    kernel.becomes('restarting');
    expect(session.frame).toBeNull();
    expect(control.isDisposed).toBe(true);
    expect(control.closed).toBe(false);
    kernel.imported = false;
    kernel.connection('connecting');
    kernel.connection('connected');
    kernel.becomes('starting');
    kernel.becomes('idle');
    await settle();
    expect(phases).toEqual(['connecting', 'live', 'restarting', 'absent']);
    kernel.becomes('busy');
    kernel.imported = true;
    kernel.becomes('idle');
    await settle();
    expect(kernel.control).not.toBe(control);
    expect(kernel.told('look')).toHaveLength(1);
    kernel.sends(frame());
    expect(session.phase).toBe('live');
  });

  it('a restart while a question is open: its answer counts no more', async () => {
    kernel.answers = false;
    begin();
    kernel.becomes('restarting');
    kernel.becomes('idle');
    await settle();
    expect(kernel.asked).toHaveLength(2);
    kernel.unanswered[0]!();
    await settle();
    expect(kernel.comms).toEqual([]);
    kernel.unanswered[1]!();
    await settle();
    expect(kernel.comms).toHaveLength(2);
  });

  it('a restart while subshells are made: those comms stay unopened', async () => {
    kernel.subshells = new PromiseDelegate();
    begin();
    await settle(1000);
    const unused = [...kernel.comms];
    kernel.becomes('restarting');
    kernel.subshells = null;
    kernel.becomes('idle');
    await settle(5000);
    expect(unused.map(comm => [comm.opened, comm.isDisposed])).toEqual([
      [null, true],
      [null, true]
    ]);
    expect(kernel.comms.filter(comm => comm.opened)).toHaveLength(2);
    kernel.sends(frame());
    expect(session.phase).toBe('live');
  });

  it('a lost connection: everything again when it is back, also if the answer was lost with it', async () => {
    await live();
    kernel.connection('connecting');
    expect(session.phase).toBe('disconnected');
    kernel.answers = false;
    kernel.connection('connected');
    kernel.connection('disconnected');
    expect(session.phase).toBe('disconnected');
    kernel.answers = true;
    kernel.connection('connected');
    expect(session.phase).toBe('connecting');
    await settle();
    expect(kernel.comms).toHaveLength(4);
    kernel.sends(frame());
    expect(session.phase).toBe('live');
  });

  it('a connection that is back is not said to be lost, though nothing is wanted', async () => {
    await live();
    session.wish('test', null);
    kernel.connection('disconnected');
    kernel.connection('connected');
    expect(session.phase).toBe('connecting');
  });

  it('death', async () => {
    await live();
    kernel.becomes('dead');
    expect([session.phase, session.frame]).toEqual(['none', null]);
    kernel.becomes('autorestarting');
    expect(session.phase).toBe('restarting');
  });

  it('another kernel: the view in the former one is closed, and what it still sends is not heard', async () => {
    await live();
    const { control, frames } = kernel;
    const { onMsg } = frames;
    const other = new FakeKernel();
    context.switch(other);
    expect([control.closed, frames.closed]).toEqual([true, true]);
    expect([session.phase, session.frame]).toEqual(['connecting', null]);
    onMsg({ content: { data: frame({ number: 99 }) } });
    kernel.becomes('dead');
    await settle();
    expect(session.phase).toBe('connecting');
    other.sends(frame({ number: 3 }));
    expect(session.frame?.number).toBe(3);
    context.switch(null);
    expect(session.phase).toBe('none');
  });

  it('a kernel that is gone is not told', async () => {
    await live();
    kernel.isDisposed = true;
    await settle(10_000);
    context.switch(null);
    expect(session.phase).toBe('none');
  });

  it('the kernel closes a comm: it is asked why, though nothing runs there', async () => {
    await live();
    const { control, frames } = kernel;
    frames.onClose();
    expect([session.phase, control.isDisposed]).toEqual(['connecting', true]);
    await settle(2000);
    expect(kernel.control).not.toBe(control);
    kernel.sends(frame());
    expect(session.phase).toBe('live');
    kernel.imported = false;
    kernel.frames.onClose();
    await settle(2000);
    expect(session.phase).toBe('absent');
    const asked = kernel.asked.length;
    await settle(20_000);
    expect(kernel.asked).toHaveLength(asked);
  });

  it('another view of this page has its comms: nothing is asked', async () => {
    kernel.handleComms = false;
    begin();
    await settle();
    expect([session.phase, kernel.asked]).toEqual(['shared', []]);
  });

  it('one that never answers counts as without pydotcompute', async () => {
    kernel.answers = false;
    begin();
    await settle(10_000);
    expect(session.phase).toBe('absent');
    kernel.answers = true;
    kernel.becomes('idle');
    await settle();
    expect(kernel.control.opened).not.toBeNull();
  });
});

describe('time', () => {
  it('a hidden page whose timers go once a minute speaks often enough not to be forgotten', async () => {
    await live();
    hide(true);
    const told = kernel.told('received').length;
    for (let minute = 0; minute < 9; minute++) {
      jest.setSystemTime(Date.now() + 59_000);
      await settle(1000);
    }
    expect(kernel.told('received').length).toBeGreaterThanOrEqual(told + 8);
  });

  it('a request that is not answered ends', async () => {
    await live();
    const pending = session.command('pause', 1, 'stats').catch(error => error.message);
    await settle(60_000);
    expect(await pending).toBe('the kernel has not answered for 60 s');
  });
});

describe('the end', () => {
  it('leaves no timer, no comm and no listener', async () => {
    await live();
    const pending = session.command('pause', 1, 'stats');
    const { control, frames } = kernel;
    const asked = kernel.asked.length;
    let heard = 0;
    session.changed.connect(() => heard++);
    session.dispose();
    session.dispose();
    await expect(pending).rejects.toThrow();
    expect([control.closed, frames.closed]).toEqual([true, true]);
    expect(jest.getTimerCount()).toBe(0);
    kernel.becomes('idle');
    context.switch(new FakeKernel());
    hide(true);
    session.wish('test', { cells: true });
    await settle(10_000);
    expect(kernel.asked).toHaveLength(asked);
    expect(context.session?.kernel?.asked).toEqual([]);
    expect(heard).toBe(0);
  });

  it('comes with that of the notebook, also while a question or a subshell is waited for', async () => {
    kernel.subshells = new PromiseDelegate();
    begin();
    await settle();
    context.disposed.emit();
    expect(session.isDisposed).toBe(true);
    await settle(5000);
    expect(kernel.comms.map(comm => [comm.opened, comm.isDisposed])).toEqual([
      [null, true],
      [null, true]
    ]);
  });

  it('leaves nothing behind after a hundred times', async () => {
    const removed = jest.spyOn(document, 'removeEventListener');
    const added = jest.spyOn(document, 'addEventListener');
    for (let i = 0; i < 100; i++) {
      begin();
      await settle();
      kernel.sends(frame());
      session.dispose();
    }
    expect(kernel.comms).toHaveLength(200);
    expect(kernel.comms.every(comm => comm.isDisposed && comm.closed)).toBe(true);
    expect(removed.mock.calls).toEqual(added.mock.calls);
    const asked = kernel.asked.length;
    kernel.becomes('idle');
    expect(kernel.asked).toHaveLength(asked);
  });
});
