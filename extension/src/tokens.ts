/** The parts of the extension, as the others see them. */
import type { IRenderMimeRegistry } from '@jupyterlab/rendermime';
import { Token } from '@lumino/coreutils';
import type { IDisposable } from '@lumino/disposable';
import type { ISignal } from '@lumino/signaling';

import type { IFrame, IKernelRef, ILook, Sort, Verb, View } from './protocol';

/** What a connection to a kernel has come to. */
export type Phase =
  /** There is no kernel. */
  | 'none'
  /** The kernel is starting, or it has not yet said whether `pydotcompute` is there. */
  | 'connecting'
  /** A kernel without `pydotcompute`. */
  | 'absent'
  | 'live'
  /** Another notebook or console in this page has the same kernel, and is the one that can ask it. */
  | 'shared'
  | 'restarting'
  | 'disconnected'
  /** It speaks another version, or what it says makes no sense; `problem` says why. */
  | 'refused';

/** The wire to one kernel. */
export interface ISession extends IDisposable {
  readonly phase: Phase;
  /** Id of the kernel; null without one. */
  readonly kernel: string | null;
  /** Why there is nothing to show, or what is wrong with the last message; "" when all is well. */
  readonly problem: string;
  /** The latest frame; null before the first, and whenever `phase` is not `live`. */
  readonly frame: IFrame | null;
  /** Phase, problem or frame. */
  readonly changed: ISignal<ISession, void>;

  /**
   * Say what one part of the page wants to be sent; null: nothing any more.
   *
   * The kernel is asked for what all parts together want: the highest rate, and the list and the details that the
   * last one to say so wants.
   */
  wish(part: string, wish: Partial<Omit<ILook, 'visible'>> | null): void;

  /** Steer a ring kernel. The result is a text for the user. Rejects with what the kernel says against it. */
  command(verb: Verb, runtime: number, kernel: string): Promise<string>;
  /** Make a widget, whose model id is returned. `kernel`: only of that one. */
  open(view: View, runtime: number, kernel: string | null): Promise<string>;
  /** End what `open` made. */
  close(model: string): Promise<void>;
}

/** An open notebook or console, and its kernel. */
export interface ISource {
  /** The same as long as it is open. */
  readonly id: string;
  /** What its tab says. */
  readonly name: string;
  readonly path: string;
  readonly session: ISession;
  /** Draws what its kernel has made. */
  readonly rendermime: IRenderMimeRegistry;
  /** A function that goes to the cell of that id; null: it is not here. */
  revealer(cell: string | null): (() => void) | null;
}

/** What the side bar shows. */
export interface IModel extends IDisposable {
  /** All that are open, in the order in which they were opened. */
  readonly sources: readonly ISource[];
  /**
   * The one that is shown: the one in front, or the one that was chosen; instead of one whose kernel has its comms with
   * another one, that.
   */
  readonly current: ISource | null;
  /** Id of the one that was chosen; null: follow what is in front. */
  pinned: string | null;
  filter: string;
  readonly sort: Sort;
  readonly descending: boolean;
  /** Sort by a column; once more the other way round. */
  sortBy(sort: Sort): void;
  /** The kernel that is selected in the list of `current`. */
  selected: IKernelRef | null;
  /** Anything of the above, or the session of `current`. */
  readonly changed: ISignal<IModel, void>;
  /** Which sources there are. */
  readonly sourcesChanged: ISignal<IModel, void>;
}

/** The model, for other extensions. */
export const IRingKernels = new Token<IModel>(
  'pydotcompute:IRingKernels',
  'The ring kernels of the notebooks that are open.'
);
