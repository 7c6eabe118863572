/** The status bar: how many ring kernels the notebook in front has, and how busy they are. */
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import * as React from 'react';

import { perSecond, plural } from './look';
import { STATES } from './protocol';
import type { IModel, ISource } from './tokens';

const PART = 'status';

export class Status extends ReactWidget {
  constructor(
    private _model: IModel,
    private _open: () => void
  ) {
    super();
    _model.changed.connect(this._follow, this);
    this._follow();
  }

  override dispose(): void {
    this._source?.session.wish(PART, null);
    super.dispose();
  }

  protected override render(): JSX.Element {
    return <UseSignal signal={this._model.changed}>{() => this._item()}</UseSignal>;
  }

  private _follow(): void {
    if (this._source !== this._model.current) {
      this._source?.session.wish(PART, null);
      this._source = this._model.current;
      this._source?.session.wish(PART, { hz: 1, summary: true });
    }
  }

  private _item(): JSX.Element | null {
    const summary = this._model.current?.session.frame?.summary;
    if (!summary) {
      return null;
    }
    const failed = summary.states[STATES.indexOf('FAILED')] ?? 0;
    const words = [
      plural(summary.kernels, 'ring kernel'),
      failed > 0 && `${failed} failed`,
      `${perSecond(summary.rate)} msg/s`,
      summary.deadLetters > 0 && plural(summary.deadLetters, 'dead letter')
    ].filter(Boolean);
    return (
      <button
        className="pdc-lab-status"
        data-bad={failed > 0 ? '' : undefined}
        title="Show the ring kernels of this notebook"
        onClick={this._open}
      >
        {words.join(' · ')}
      </button>
    );
  }

  private _source: ISource | null = null;
}
