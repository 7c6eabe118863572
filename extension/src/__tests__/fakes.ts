/** What a session has to do with, as far as it goes: a kernel that can be led through what happens to kernels. */
import { PromiseDelegate, UUID } from '@lumino/coreutils';
import { Signal } from '@lumino/signaling';

import { CONTROL, FRAMES } from '../protocol';
import type { Context } from '../session';

export class FakeComm {
  constructor(
    readonly targetName: string,
    private _kernel: FakeKernel
  ) {
    this.subshellStarted = _kernel.subshells?.promise;
  }

  readonly subshellStarted: Promise<void> | undefined;
  opened: any = null;
  sent: any[] = [];
  isDisposed = false;
  /** Whether the kernel was told of the end. */
  closed = false;
  onMsg: (message: any) => void = () => undefined;
  onClose: () => void = () => undefined;

  open(data: any): void {
    this._usable();
    this.opened = data;
  }

  send(data: any): void {
    this._usable();
    if (!this.opened) {
      throw new Error('a message on a comm that is not open is lost');
    }
    this.sent.push(data);
  }

  close(): void {
    this._usable();
    this.closed = true;
    this.onClose();
    this.dispose();
  }

  dispose(): void {
    this.isDisposed = true;
  }

  private _usable(): void {
    if (this.isDisposed || this._kernel.isDisposed) {
      throw new Error('Cannot send');
    }
  }
}

export class FakeKernel {
  readonly statusChanged = new Signal<this, string>(this);
  readonly connectionStatusChanged = new Signal<this, string>(this);
  readonly id: string = UUID.uuid4();
  readonly username = 'someone';
  readonly clientId = 'page';
  status = 'idle';
  connectionStatus = 'connected';
  isDisposed = false;
  /** Whether it is the connection of this page that has comms. */
  handleComms = true;
  /** Whether `pydotcompute` was imported. */
  imported = true;
  /** Whether it answers questions at once. */
  answers = true;
  /** Unsettled: how long it takes to make a subshell. */
  subshells: PromiseDelegate<void> | null = null;
  comms: FakeComm[] = [];
  asked: any[] = [];
  unanswered: (() => void)[] = [];

  get supportsSubshells(): boolean {
    return this.subshells !== null;
  }

  get control(): FakeComm {
    return this._last(CONTROL);
  }

  get frames(): FakeComm {
    return this._last(FRAMES);
  }

  /** Those of the browser's messages on the control comm that are of a kind. */
  told(kind: string): any[] {
    return this.control.sent.filter(message => message.kind === kind);
  }

  createComm(target: string): FakeComm {
    const comm = new FakeComm(target, this);
    this.comms.push(comm);
    return comm;
  }

  sendControlMessage(message: any): { done: Promise<any>; dispose: () => void } {
    this.asked.push(message);
    const reply = new PromiseDelegate<any>();
    const answer = (): void => {
      const comms = this.imported ? { marker: { target_name: CONTROL } } : {};
      reply.resolve({ content: { status: 'ok', comms } });
    };
    if (this.answers) {
      answer();
    } else {
      this.unanswered.push(answer);
    }
    return { done: reply.promise, dispose: () => reply.reject(new Error('disposed')) };
  }

  becomes(status: string): void {
    this.status = status;
    this.statusChanged.emit(status);
  }

  connection(status: string): void {
    this.connectionStatus = status;
    this.connectionStatusChanged.emit(status);
  }

  /** Send something on the comm for frames. */
  sends(data: unknown): void {
    this.frames.onMsg({ content: { data } });
  }

  acknowledges(refused: string | null = null): void {
    this.control.onMsg({ content: { data: { version: 1, kind: 'acknowledgement', refused } } });
  }

  private _last(target: string): FakeComm {
    const found = this.comms.filter(comm => comm.targetName === target).at(-1);
    if (!found) {
      throw new Error(`no comm of ${target} was made`);
    }
    return found;
  }
}

export class FakeContext {
  constructor(kernel: FakeKernel | null) {
    this.session = kernel && { kernel };
  }

  session: { kernel: FakeKernel | null } | null;
  readonly kernelChanged = new Signal<this, any>(this);
  readonly disposed = new Signal<this, void>(this);
  isDisposed = false;

  get given(): Context {
    return this as any;
  }

  switch(kernel: FakeKernel | null): void {
    this.session = kernel && { kernel };
    this.kernelChanged.emit({});
  }
}

export function frame(other: object = {}): { [name: string]: unknown } {
  const nothing = { runtimes: [], summary: null, cells: null, list: null, details: null, results: [] };
  return { version: 1, kind: 'frame', number: 1, hz: 2, ...nothing, ...other };
}
