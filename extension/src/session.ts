/** The wire to the kernel of one notebook, through restarts, other kernels and lost connections. */
import type { ISessionContext } from '@jupyterlab/apputils';
import { type Kernel, KernelMessage } from '@jupyterlab/services';
import { PromiseDelegate, UUID } from '@lumino/coreutils';
import { type ISignal, Signal } from '@lumino/signaling';

import * as wire from './protocol';
import type { ISession, Phase } from './tokens';

/** Milliseconds between two ticks: probing a busy kernel, and telling that somebody still looks. */
const TICK = 1000;
/** Ticks until a busy kernel is asked again whether `pydotcompute` is there. */
const PROBE_AGAIN = 2;
/** Milliseconds until the kernel is told that somebody still looks; after 3 s it sends slower, after 30 s nothing. */
const HEARTBEAT = 2000;
/**
 * The same while nobody can see this page; after 600 s of silence the kernel believes that it is closed. Browsers let
 * the timers of such pages go once a minute.
 */
const PULSE = 60_000;
/** Milliseconds that a kernel may take to say which comms it has: those that never do know no such question. */
const ANSWER = 10_000;
/** Milliseconds that a request may take, the draining of a ring kernel that is stopped included. */
const PATIENCE = 60_000;
/** Milliseconds that a kernel may take to make a subshell; without one, messages wait for the end of a cell. */
const SUBSHELL = 3000;

const NOTHING: wire.ILook = { hz: 0, visible: false, summary: false, cells: false, list: null, details: null };

type Wish = Partial<Omit<wire.ILook, 'visible'>>;

/** What a notebook has to give; `ISessionContext` does. */
export type Context = Pick<ISessionContext, 'session' | 'kernelChanged' | 'isDisposed' | 'disposed'>;

/** Both comms of one view in the kernel. */
interface ILine {
  key: string;
  control: Kernel.IComm;
  frames: Kernel.IComm;
}

export class Session implements ISession {
  constructor(private _context: Context) {
    _context.kernelChanged.connect(this._attach, this);
    _context.disposed.connect(this.dispose, this);
    document.addEventListener('visibilitychange', this._onVisibility);
    this._timer = setInterval(() => this._tick(), TICK);
    this._attach();
  }

  get phase(): Phase {
    return this._phase;
  }

  get kernel(): string | null {
    return this._kernel?.id ?? null;
  }

  get problem(): string {
    return this._problem;
  }

  get frame(): wire.IFrame | null {
    return this._phase === 'live' ? this._frame : null;
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  dispose(): void {
    if (this._isDisposed) {
      return;
    }
    this._isDisposed = true;
    clearInterval(this._timer);
    document.removeEventListener('visibilitychange', this._onVisibility);
    this._detach();
    Signal.clearData(this);
  }

  wish(part: string, wish: Wish | null): void {
    this._wishes.delete(part); // the latest stands last
    if (wish !== null) {
      this._wishes.set(part, wish);
    }
    this._look();
  }

  async command(verb: wire.Verb, runtime: number, kernel: string): Promise<string> {
    return (await this._request({ kind: 'command', request: UUID.uuid4(), verb, runtime, kernel })).text;
  }

  async open(view: wire.View, runtime: number, kernel: string | null): Promise<string> {
    const result = await this._request({ kind: 'open', request: UUID.uuid4(), view, runtime, kernel });
    if (result.model === null) {
      throw new Error('the kernel has made no view');
    }
    return result.model;
  }

  async close(model: string): Promise<void> {
    await this._request({ kind: 'close', request: UUID.uuid4(), model });
  }

  // -- the kernel -----------------------------------------------------------------------------------------------------

  private _attach(): void {
    this._detach();
    const kernel = (this._kernel = this._context.session?.kernel ?? null);
    kernel?.statusChanged.connect(this._onStatus, this);
    kernel?.connectionStatusChanged.connect(this._onStatus, this);
    this._set(kernel ? 'connecting' : 'none');
    this._onStatus();
  }

  private _detach(): void {
    this._hangUp('the kernel is another one now', true);
    this._kernel?.statusChanged.disconnect(this._onStatus, this);
    this._kernel?.connectionStatusChanged.disconnect(this._onStatus, this);
    this._kernel = null;
  }

  private _onStatus(): void {
    const kernel = this._kernel;
    if (!kernel || kernel.isDisposed) {
      return;
    }
    if (kernel.connectionStatus !== 'connected') {
      // What was sent meanwhile is lost, and so may be the kernel's own view of this page: begin again after it.
      this._hangUp('the connection to the kernel was lost', false);
      // A kernel that starts, or starts again, is connected to for the first time or anew.
      const starts = this._phase === 'connecting' || this._phase === 'restarting';
      this._set(starts && kernel.connectionStatus === 'connecting' ? this._phase : 'disconnected');
      return;
    }
    if (this._phase === 'disconnected') {
      this._set('connecting');
    }
    switch (kernel.status) {
      case 'restarting':
      case 'autorestarting':
        this._hangUp('the kernel was restarted', false);
        this._set('restarting');
        break;
      case 'dead':
      case 'terminating':
        this._hangUp('the kernel has ended', false);
        this._set('none');
        break;
      case 'idle':
        void this._probe();
        break;
    }
  }

  private _tick(): void {
    this._ticks++;
    if (this._line) {
      // Who wants nothing may be forgotten by the kernel: the next wish makes it known again.
      const silent = Date.now() - this._sentAt;
      if (wanted(this._looked) && silent >= (this._looked.visible ? HEARTBEAT : PULSE)) {
        this._send({ kind: 'received', number: this._frame?.number ?? 0 });
      }
    } else if ((this._kernel?.status === 'busy' || this._lost) && this._ticks % PROBE_AGAIN === 0) {
      void this._probe();
    }
  }

  /** Ask whether `pydotcompute` is there: opening a comm that nobody there knows would put an error into the notebook. */
  private async _probe(): Promise<void> {
    const kernel = this._kernel;
    if (!kernel || this._line || this._attempt || kernel.connectionStatus !== 'connected' || !wanted(this._merged())) {
      return;
    }
    if (!kernel.handleComms) {
      // JupyterLab lets only the first of several notebooks and consoles with one kernel have comms.
      return this._set('shared');
    }
    const attempt = (this._attempt = new AbortController());
    try {
      const found = await comms(kernel, wire.CONTROL, attempt.signal);
      if (attempt !== this._attempt) {
        return;
      }
      this._lost = false;
      if (found.length > 0) {
        await this._dial(kernel, attempt);
      } else {
        this._set('absent');
      }
    } catch {
      // The kernel ended or was restarted before it answered: its status says what comes next. Or it never answers.
      if (attempt === this._attempt && this._phase === 'connecting') {
        this._set('absent');
      }
    } finally {
      if (attempt === this._attempt) {
        this._attempt = null;
      }
    }
  }

  // -- the line -------------------------------------------------------------------------------------------------------

  private async _dial(kernel: Kernel.IKernelConnection, attempt: AbortController): Promise<void> {
    let line: ILine;
    try {
      const key = UUID.uuid4();
      line = { key, control: kernel.createComm(wire.CONTROL), frames: kernel.createComm(wire.FRAMES) };
    } catch (error) {
      return this._set('refused', `this notebook has no way to its kernel: ${(error as Error).message}`);
    }
    // A message that is sent before the comm's subshell is there would wait for the cell that runs.
    const subshells = [line.control, line.frames].map(comm =>
      kernel.supportsSubshells ? (comm as { subshellStarted?: Promise<void> }).subshellStarted : undefined
    );
    let late: ReturnType<typeof setTimeout> | undefined;
    const patience = new Promise(resolve => (late = setTimeout(resolve, SUBSHELL)));
    await Promise.race([Promise.allSettled(subshells), patience]);
    clearTimeout(late);
    if (attempt !== this._attempt) {
      line.control.dispose();
      line.frames.dispose();
      return;
    }
    tidy(kernel, [line.control, line.frames]);
    this._line = line;
    const hello: wire.ToKernel = { kind: 'hello', panel: line.key, gone: [...gone] };
    for (const comm of [line.control, line.frames]) {
      comm.onMsg = message => this._heard(line, comm, message.content.data);
      comm.onClose = () => this._closed(line);
    }
    line.frames.open(wire.written(hello));
    line.control.open(wire.written(hello));
    this._acknowledged.push(refused => refused !== null && this._set('refused', refused));
    this._looked = NOTHING;
    this._look();
  }

  private _heard(line: ILine, comm: Kernel.IComm, data: unknown): void {
    if (line !== this._line) {
      return;
    }
    const message = wire.read(data);
    if (message.kind === 'acknowledgement' && comm === line.control) {
      this._acknowledged.shift()?.(message.refused);
    } else if (message.kind === 'frame') {
      this._frame = message;
      for (const result of message.results) {
        this._settle(result);
      }
      this._set('live');
      this._changed.emit();
    } else {
      const text = 'text' in message ? message.text : 'the kernel acknowledges what it was not told';
      this._set('refused', message.kind === 'trouble' ? text : `The kernel sends what makes no sense: ${text}`);
    }
  }

  /** The kernel closed a comm. */
  private _closed(line: ILine): void {
    if (line === this._line) {
      // It had given this page up, as silent for too long, or `pydotcompute` is there no longer: ask.
      this._hangUp('the kernel has closed the connection', true);
      this._lost = true;
      this._set('connecting');
    }
  }

  private _hangUp(why: string, tell: boolean): void {
    const line = this._line;
    this._line = null;
    this._attempt?.abort();
    this._attempt = null;
    this._frame = null;
    this._looked = NOTHING;
    this._acknowledged = [];
    const requests = [...this._requests.values()];
    this._requests.clear();
    for (const request of requests) {
      request.reject(new Error(why));
    }
    if (line) {
      gone.splice(0, gone.push(line.key) - wire.MOST_GONE);
    }
    for (const comm of line ? [line.control, line.frames] : []) {
      comm.onClose = () => undefined;
      comm.onMsg = () => undefined;
      if (tell && !comm.isDisposed && this._kernel && !this._kernel.isDisposed) {
        close(this._kernel, comm);
      } else {
        comm.dispose();
      }
    }
  }

  private _send(message: wire.ToKernel, acknowledged: (refused: string | null) => void = () => undefined): void {
    if (this._line && !this._kernel?.isDisposed) {
      this._acknowledged.push(acknowledged);
      this._sentAt = Date.now();
      this._line.control.send(wire.written(message));
    }
  }

  private _request(message: wire.ToKernel & { request: string }): Promise<wire.IResult> {
    const request = new PromiseDelegate<wire.IResult>();
    if (!this._line || this._phase !== 'live') {
      return Promise.reject(new Error('there is no connection to the ring kernels of this notebook'));
    }
    this._requests.set(message.request, request);
    const late = setTimeout(() => {
      const text = `the kernel has not answered for ${PATIENCE / 1000} s`;
      this._settle({ request: message.request, ok: false, text, model: null });
    }, PATIENCE);
    request.promise.then(
      () => clearTimeout(late),
      () => clearTimeout(late)
    );
    this._send(message, refused => {
      if (refused !== null) {
        this._settle({ request: message.request, ok: false, text: refused, model: null });
      }
    });
    return request.promise;
  }

  /** What became of a request; it is told more than once. */
  private _settle(result: wire.IResult): void {
    const request = this._requests.get(result.request);
    this._requests.delete(result.request);
    if (result.ok) {
      request?.resolve(result);
    } else {
      request?.reject(new Error(result.text));
    }
  }

  // -- what is wanted -------------------------------------------------------------------------------------------------

  private _onVisibility = () => this._look();

  /** What all parts of the page want. */
  private _merged(): wire.ILook {
    const look = { ...NOTHING, visible: !document.hidden };
    for (const wish of this._wishes.values()) {
      look.hz = Math.max(look.hz, wish.hz ?? 0);
      look.summary ||= wish.summary ?? false;
      look.cells ||= wish.cells ?? false;
      look.list = wish.list ?? look.list;
      look.details = wish.details ?? look.details;
    }
    return look;
  }

  private _look(): void {
    const look = this._merged();
    if (!this._line) {
      void this._probe();
    } else if (JSON.stringify(look) !== JSON.stringify(this._looked)) {
      this._looked = look;
      // A rate is part of every message, also of one that wants nothing.
      this._send({ kind: 'look', ...look, hz: look.hz || 1, visible: look.visible && wanted(look) }, refused => {
        if (refused !== null) {
          this._set('refused', refused);
        }
      });
    }
  }

  private _set(phase: Phase, problem = ''): void {
    if (phase !== this._phase || problem !== this._problem) {
      this._phase = phase;
      this._problem = problem;
      this._changed.emit();
    }
  }

  private _kernel: Kernel.IKernelConnection | null = null;
  private _line: ILine | null = null;
  private _phase: Phase = 'none';
  private _problem = '';
  private _frame: wire.IFrame | null = null;
  private _looked = NOTHING;
  private _wishes = new Map<string, Wish>();
  private _requests = new Map<string, PromiseDelegate<wire.IResult>>();
  private _acknowledged: ((refused: string | null) => void)[] = [];
  /** The present one to find `pydotcompute` and to open a line; one that was overtaken by events is another. */
  private _attempt: AbortController | null = null;
  private _ticks = 0;
  private _sentAt = 0;
  /** Whether the kernel has closed the line, and is to be asked why. */
  private _lost = false;
  private _timer: ReturnType<typeof setInterval>;
  private _isDisposed = false;
  private _changed = new Signal<this, void>(this);
}

/** Subshells of comms that were closed, by kernel: threads of it, with sockets. */
const idle = new Map<string, string[]>();

/**
 * Keys of the views that were closed last, of any kernel: a server drops what came just before a connection ended, word of the
 * closing too, and then the kernel would keep the view for ten minutes. So all that open one later tell it again.
 */
const gone: string[] = [];

/**
 * Close a comm.
 *
 * JupyterLab ends its subshell later, when the connection to the kernel may be gone, as after a notebook was closed: then
 * it stays, and after a hundred of them the kernel answers no more. Now is too early, as word of the closing would be
 * lost with it: whoever opens the next comm ends it.
 */
function close(kernel: Kernel.IKernelConnection, comm: Kernel.IComm): void {
  const used = subshell(comm);
  if (used) {
    idle.set(kernel.id, [...(idle.get(kernel.id) ?? []), used]);
  }
  comm.close();
}

/** End the subshells of comms that were closed and that these have not taken over; those that have ended are refused. */
function tidy(kernel: Kernel.IKernelConnection, comms: Kernel.IComm[]): void {
  const used = comms.map(subshell);
  for (const subshell_id of idle.get(kernel.id) ?? []) {
    if (!used.includes(subshell_id)) {
      kernel.requestDeleteSubshell({ subshell_id }, true).done.catch(() => undefined); // nobody waits for it
    }
  }
  idle.delete(kernel.id);
}

function subshell(comm: Kernel.IComm): string | null | undefined {
  return (comm as Kernel.IComm & { subshellId?: string | null }).subshellId;
}

/** Whether anything is wanted at all. */
function wanted(look: wire.ILook): boolean {
  return look.summary || look.cells || look.list !== null || look.details !== null;
}

/**
 * The ids of the comms of some target that a kernel has, asked on the control channel, which answers while a cell runs.
 *
 * Rejects when the kernel ends or is restarted before it answers, when it does not answer, and when `signal` says that nobody
 * wants to know any more.
 */
export async function comms(kernel: Kernel.IKernelConnection, target: string, signal?: AbortSignal): Promise<string[]> {
  const question = KernelMessage.createMessage<KernelMessage.ICommInfoRequestMsg>({
    msgType: 'comm_info_request',
    channel: 'shell',
    username: kernel.username,
    session: kernel.clientId,
    content: { target_name: target }
  });
  // The types know this message on the shell channel only; kernels take it on both.
  const future = kernel.sendControlMessage({ ...question, channel: 'control' } as any, true);
  const late = setTimeout(() => future.dispose(), ANSWER);
  signal?.addEventListener('abort', () => future.dispose());
  const reply = ((await future.done.finally(() => clearTimeout(late))) as any)
    .content as KernelMessage.ICommInfoReplyMsg['content'];
  return reply.status === 'ok' ? Object.keys(reply.comms) : [];
}
