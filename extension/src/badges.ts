/** A small badge on each cell that defines ring kernels: what they do, and whether the cell has changed since. */
import type { INotebookTracker, NotebookPanel } from '@jupyterlab/notebook';

import type { Badges } from './badge';
import type { IKernelRef } from './protocol';
import type { IModel, ISource } from './tokens';

const PART = 'badges';
/** Frames a second: a badge is no chart. */
const HZ = 1;

/** One notebook. What draws badges is fetched when there is a cell to draw one on. */
class Notebook {
  constructor(
    private _panel: NotebookPanel,
    private _source: ISource,
    private _show: (kernel: IKernelRef) => void
  ) {
    _source.session.changed.connect(this._look, this);
    _source.session.wish(PART, { hz: HZ, cells: true });
    this._look();
  }

  dispose(): void {
    this._disposed = true;
    this._badges?.dispose();
    if (!this._source.session.isDisposed) {
      this._source.session.changed.disconnect(this._look, this);
      this._source.session.wish(PART, null);
    }
  }

  private async _look(): Promise<void> {
    if (this._source.session.frame?.cells?.length) {
      this._source.session.changed.disconnect(this._look, this);
      const { Badges } = await import('./badge');
      if (!this._disposed && !this._badges && !this._panel.isDisposed) {
        this._badges = new Badges(this._panel, this._source, this._show);
      }
    }
  }

  private _badges: Badges | null = null;
  private _disposed = false;
}

/** Keep badges on the cells of all notebooks; returns a function that turns them on and off. */
export function addBadges(
  model: IModel,
  notebooks: INotebookTracker,
  show: (source: ISource, kernel: IKernelRef) => void
): (on: boolean) => void {
  const all = new Map<string, Notebook>();
  let wanted = false;
  const follow = (): void => {
    for (const source of wanted ? model.sources : []) {
      const panel = notebooks.find(({ id }) => id === source.id);
      if (panel && !all.has(source.id)) {
        all.set(source.id, new Notebook(panel, source, kernel => show(source, kernel)));
      }
    }
    for (const [id, badges] of all) {
      if (!wanted || !model.sources.some(source => source.id === id)) {
        badges.dispose();
        all.delete(id);
      }
    }
  };
  model.sourcesChanged.connect(follow);
  return on => {
    wanted = on;
    follow();
  };
}
