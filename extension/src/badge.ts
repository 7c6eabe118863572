/** A small badge on each cell of a notebook that defines ring kernels. */
import type { Cell } from '@jupyterlab/cells';
import type { NotebookPanel } from '@jupyterlab/notebook';
import { Signal } from '@lumino/signaling';

import { clipped, count, counted, LOOK, plural, WORST_FIRST } from './look';
import { digest, type ICell, type IKernelRef, STATES } from './protocol';
import type { ISource } from './tokens';

/** Milliseconds after the last key until a cell is compared with what was run. */
const TYPING = 300;
const SVG = 'http://www.w3.org/2000/svg';

/** Keeps the badges of one notebook. */
export class Badges {
  constructor(
    private _panel: NotebookPanel,
    private _source: ISource,
    private _show: (kernel: IKernelRef) => void
  ) {
    _source.session.changed.connect(this._draw, this);
    _panel.content.modelContentChanged.connect(this._onTyped, this);
    _panel.disposed.connect(this.dispose, this);
    this._draw();
  }

  dispose(): void {
    if (!this._source.session.isDisposed) {
      this._source.session.changed.disconnect(this._draw, this);
    }
    if (!this._panel.isDisposed) {
      this._panel.content.modelContentChanged.disconnect(this._onTyped, this);
      this._panel.disposed.disconnect(this.dispose, this);
    }
    clearTimeout(this._timer);
    Signal.disconnectReceiver(this);
    for (const [cell, badge] of this._badges) {
      take(cell, badge);
    }
    this._badges.clear();
  }

  private _onTyped(): void {
    clearTimeout(this._timer);
    this._timer = setTimeout(() => this._draw(), TYPING);
  }

  private _draw(): void {
    if (this._panel.isDisposed) {
      return;
    }
    const cells =
      this._source.session.frame?.cells ?? (['live', 'refused'].includes(this._source.session.phase) ? null : []);
    if (cells === null) {
      return; // a frame without cells: somebody else's wish was answered first
    }
    const known = new Map(cells.map(cell => [cell.cell, cell]));
    for (const cell of this._panel.content.widgets) {
      const what = known.get(cell.model.id);
      let badge = this._badges.get(cell);
      if (!what) {
        if (badge) {
          take(cell, badge);
          this._badges.delete(cell);
        }
        continue;
      }
      if (!badge) {
        badge = document.createElement('button');
        badge.className = 'pdc-lab-badge';
        this._badges.set(cell, badge);
      }
      // A cell out of sight has no input area yet.
      const input = cell.inputArea?.node.parentElement;
      if (!input) {
        if (!this._unseen.has(cell)) {
          this._unseen.add(cell);
          cell.inViewportChanged.connect(this._draw, this);
        }
        continue;
      }
      if (badge.parentElement !== input) {
        input.append(badge);
      }
      this._write(cell, badge, what);
    }
    for (const [cell, badge] of this._badges) {
      if (cell.isDisposed) {
        this._badges.delete(cell);
        badge.remove();
      }
    }
  }

  private _write(cell: Cell, badge: HTMLButtonElement, what: ICell): void {
    const source = cell.model.sharedModel.getSource();
    let mine = this._sources.get(cell);
    if (mine?.source !== source) {
      mine = { source, digest: digest(source) };
      this._sources.set(cell, mine);
    }
    const edited = mine.digest !== what.digest;
    const present = STATES.filter((_, i) => what.states[i]);
    const look = LOOK[WORST_FIRST.find(state => present.includes(state)) ?? 'CREATED'];
    const words = [
      what.kernels === 1 ? look.word : counted(what.states, STATES),
      what.version > 1 || what.kernels === 1 ? `v${count(what.version)}` : '',
      what.queued ? `${count(what.queued)} queued` : '',
      what.failed !== null ? clipped(what.failed, 60) : '',
      edited ? 'changed since it was run' : ''
    ].filter(Boolean);
    const text = words.join(' · ');
    const tone = edited && look.tone !== 'bad' ? 'warn' : look.tone;
    if (badge.dataset.text === text && badge.dataset.tone === tone) {
      return;
    }
    badge.dataset.text = text;
    badge.dataset.tone = tone;
    const label = document.createElement('span');
    label.textContent = text;
    badge.replaceChildren(shape(look.shape), label);
    const who = what.kernels === 1 ? what.kernel : plural(what.kernels, 'ring kernel');
    badge.title = [who, what.failed, 'Click for details'].filter(Boolean).join('\n');
    badge.setAttribute('aria-label', `${clipped(who, 100)}: ${text}`);
    badge.onclick = () => this._show({ runtime: what.runtime, kernel: what.kernel });
    cell.node.classList.add('pdc-lab-defines');
    cell.node.classList.toggle('pdc-lab-crashed', what.failed !== null);
  }

  private _badges = new Map<Cell, HTMLButtonElement>();
  private _sources = new WeakMap<Cell, { source: string; digest: number }>();
  private _unseen = new WeakSet<Cell>();
  private _timer: ReturnType<typeof setTimeout> | undefined;
}

function take(cell: Cell, badge: HTMLElement): void {
  badge.remove();
  if (!cell.isDisposed) {
    cell.node.classList.remove('pdc-lab-defines', 'pdc-lab-crashed');
  }
}

function shape(path: string): SVGElement {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('viewBox', '0 0 10 10');
  svg.setAttribute('aria-hidden', 'true');
  svg.append(document.createElementNS(SVG, 'path'));
  svg.firstElementChild!.setAttribute('d', path);
  return svg;
}
