/** The place of the panel in the side bar. What draws it is loaded when it is shown for the first time. */
import type { CommandRegistry } from '@lumino/commands';
import type { Message } from '@lumino/messaging';
import { PanelLayout, Widget } from '@lumino/widgets';

import type { KernelsPanel } from './panels/kernels';
import type { View } from './protocol';
import type { IModel, ISource } from './tokens';

/** Does what the panel's buttons ask for outside it. */
export interface IOutside {
  open(source: ISource, view: View, runtime: number, kernel: string | null): void;
  commands: CommandRegistry;
}

export class Side extends Widget {
  constructor(
    private _model: IModel,
    private _outside: IOutside
  ) {
    super();
    this.addClass('pdc-lab-side');
    this.layout = new PanelLayout();
  }

  /** Frames a second that it asks for while it is shown. */
  set hz(hz: number) {
    this._hz = hz;
    if (this._panel) {
      this._panel.hz = hz;
    }
  }

  protected override onAfterShow(_: Message): void {
    if (!this._asked) {
      this._asked = true;
      void this._load();
    }
  }

  private async _load(): Promise<void> {
    const { KernelsPanel } = await import('./panels/kernels');
    if (!this.isDisposed) {
      this._panel = new KernelsPanel(this._model, this._outside, this._hz);
      (this.layout as PanelLayout).addWidget(this._panel);
    }
  }

  private _panel: KernelsPanel | null = null;
  private _asked = false;
  private _hz = 2;
}
