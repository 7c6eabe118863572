/** One view of a kernel's own widgets in the main area. */
import { MimeModel } from '@jupyterlab/rendermime';
import { UUID } from '@lumino/coreutils';
import type { Message } from '@lumino/messaging';
import { PanelLayout, Widget } from '@lumino/widgets';

import { icon } from './icon';
import type { View } from './protocol';
import type { IModel, ISource } from './tokens';

const MIME = 'application/vnd.jupyter.widget-view+json';

/** What a tab shows; all of it survives a reload of the page. */
export interface ITab {
  /** Of the notebook. */
  path: string;
  view: View;
  runtime: number;
  kernel: string | null;
}

/** One view. It follows its notebook through restarts of the kernel. */
export class TabContent extends Widget {
  constructor(
    public tab: ITab,
    private _model: IModel
  ) {
    super();
    this.addClass('pdc-lab-tab');
    this.layout = new PanelLayout();
    this.title.icon = icon;
    this._name();
    _model.sourcesChanged.connect(this._follow, this);
    this._follow();
  }

  override dispose(): void {
    if (this.isDisposed) {
      return;
    }
    this._leave();
    this._model.sourcesChanged.disconnect(this._follow, this);
    super.dispose();
  }

  protected override onAfterAttach(_: Message): void {
    void this._draw();
  }

  protected override onAfterShow(_: Message): void {
    void this._draw();
  }

  private _follow(): void {
    const { sources } = this._model;
    // A notebook that is renamed is still the same.
    const source =
      sources.find(one => one === this._source) ?? sources.find(({ path }) => path === this.tab.path) ?? null;
    if (source && source.path !== this.tab.path) {
      this.tab = { ...this.tab, path: source.path };
      this._name();
    }
    if (source !== this._source) {
      this._leave();
      this._source = source;
      source?.session.changed.connect(this._look, this);
      source?.session.wish(this._part, { hz: 1, summary: true });
    }
    this._look();
  }

  private _name(): void {
    const { kernel, path, view } = this.tab;
    this.title.label = `${kernel ?? path.split('/').pop()}: ${view}`;
    this.title.caption = `${view[0]!.toUpperCase()}${view.slice(1)} of ${kernel ?? 'the ring kernels'} of ${path}`;
  }

  private _leave(): void {
    const session = this._source?.session;
    if (session && !session.isDisposed) {
      session.changed.disconnect(this._look, this);
      session.wish(this._part, null);
      if (this._made !== null && session.phase === 'live') {
        // The view is gone already: that the kernel is not told is no loss that anybody could do something about.
        session.close(this._made).catch(() => undefined);
      }
    }
    this._source = null;
    this._made = null;
  }

  private _look(): void {
    const source = this._source;
    if (!source) {
      return this._say(`Open ${this.tab.path} to see this again: its kernel is what is shown here.`);
    }
    if (source.session.phase === 'refused' && this._tried) {
      return; // one bad message: what is shown goes on
    }
    if (source.session.phase !== 'live') {
      this._made = null;
      this._tried = false;
      return this._say(
        source.session.phase === 'absent'
          ? `${source.name} has no ring kernels: run its cells.`
          : source.session.problem || 'Waiting for the kernel …'
      );
    }
    if (!this._tried) {
      this._tried = true;
      void this._show(source);
    }
  }

  private async _show(source: ISource): Promise<void> {
    const { view, runtime, kernel } = this.tab;
    try {
      const made = await source.session.open(view, runtime, kernel);
      if (this.isDisposed || source !== this._source) {
        return void source.session.close(made).catch(() => undefined);
      }
      this._made = made;
      await this._draw();
    } catch (error) {
      this._say((error as Error).message);
    }
  }

  /** Show what the kernel has made. Views measure themselves as they are made, so those out of sight wait. */
  private async _draw(): Promise<void> {
    const made = this._made;
    if (made === null || made === this._drawn || !this._source || !this.isVisible) {
      return;
    }
    this._drawn = made;
    const renderer = this._source.rendermime.createRenderer(MIME);
    const data = { [MIME]: { version_major: 2, version_minor: 0, model_id: made } };
    this._put(renderer);
    await renderer
      .renderModel(new MimeModel({ data, trusted: true }))
      .catch((error: Error) => this._say(error.message));
  }

  private _say(text: string): void {
    const told = new Widget();
    told.addClass('pdc-lab-nothing');
    told.node.textContent = text;
    this._put(told);
  }

  /** Show this, and nothing else. */
  private _put(widget: Widget): void {
    const layout = this.layout as PanelLayout;
    for (const former of [...layout.widgets]) {
      former.dispose();
    }
    layout.addWidget(widget);
  }

  private _part = `tab ${UUID.uuid4()}`;
  private _source: ISource | null = null;
  private _made: string | null = null;
  private _drawn: string | null = null;
  private _tried = false;
}
