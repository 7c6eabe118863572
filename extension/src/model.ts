/** What the side bar shows: which notebook, and what of its ring kernels. */
import { type ISignal, Signal } from '@lumino/signaling';

import type { IKernelRef, Sort } from './protocol';
import type { IModel, ISession, ISource } from './tokens';

export class Model implements IModel {
  get sources(): readonly ISource[] {
    return this._sources;
  }

  get current(): ISource | null {
    return this._current;
  }

  get pinned(): string | null {
    return this._pinned;
  }

  set pinned(id: string | null) {
    this._change(() => (this._pinned = id));
  }

  get filter(): string {
    return this._filter;
  }

  set filter(filter: string) {
    if (filter !== this._filter) {
      this._filter = filter;
      this._changed.emit();
    }
  }

  get sort(): Sort {
    return this._sort;
  }

  get descending(): boolean {
    return this._descending;
  }

  /** Sort by a column; once more the other way round. Text begins at its start, numbers with the highest. */
  sortBy(sort: Sort): void {
    this._descending = sort === this._sort ? !this._descending : sort !== 'kernel';
    this._sort = sort;
    this._changed.emit();
  }

  get selected(): IKernelRef | null {
    return this._selected;
  }

  set selected(selected: IKernelRef | null) {
    this._selected = selected;
    this._changed.emit();
  }

  get changed(): ISignal<this, void> {
    return this._changed;
  }

  get sourcesChanged(): ISignal<this, void> {
    return this._sourcesChanged;
  }

  get isDisposed(): boolean {
    return this._isDisposed;
  }

  /** A notebook or console was opened. */
  add(source: ISource): void {
    source.session.changed.connect(this._onSession, this);
    this._change(() => this._sources.push(source));
    this._sourcesChanged.emit();
  }

  /** It was closed. */
  remove(id: string): void {
    const gone = this._sources.find(source => source.id === id);
    if (gone) {
      this._change(() => {
        this._sources = this._sources.filter(source => source !== gone);
        this._pinned = this._pinned === id ? null : this._pinned;
      });
      gone.session.dispose();
      this._sourcesChanged.emit();
    }
  }

  /** Another one is in front; those that are neither notebook nor console leave the last one there. */
  front(id: string): void {
    this._change(() => (this._front = id));
  }

  /** Its name has changed. */
  renamed(): void {
    this._sourcesChanged.emit();
    this._changed.emit();
  }

  dispose(): void {
    if (!this._isDisposed) {
      this._isDisposed = true;
      for (const source of this._sources) {
        source.session.dispose();
      }
      this._sources = [];
      this._current = null;
      Signal.clearData(this);
    }
  }

  /** Do something that may change which one is shown: another notebook has other kernels to select. */
  private _change(act: () => void): void {
    act();
    const current = this._find();
    if (current !== this._current) {
      this._current = current;
      this._selected = null;
    }
    this._changed.emit();
  }

  private _find(): ISource | null {
    const called = (id: string | null) => this._sources.find(source => source.id === id);
    const found = called(this._pinned) ?? called(this._front);
    const other = ({ session }: ISource) => session.kernel === found?.session.kernel && session.phase !== 'shared';
    return (found?.session.phase === 'shared' && this._sources.find(other)) || (found ?? null);
  }

  private _onSession(session: ISession): void {
    if (session !== this._current?.session && this._find() === this._current) {
      return;
    }
    if (['none', 'connecting', 'restarting'].includes(session.phase)) {
      this._selected = null; // what has its name in the next kernel is another one
    }
    this._change(() => undefined);
  }

  private _sources: ISource[] = [];
  private _current: ISource | null = null;
  private _front: string | null = null;
  private _pinned: string | null = null;
  private _filter = '';
  private _sort: Sort = 'kernel';
  private _descending = false;
  private _selected: IKernelRef | null = null;
  private _isDisposed = false;
  private _changed = new Signal<this, void>(this);
  private _sourcesChanged = new Signal<this, void>(this);
}
