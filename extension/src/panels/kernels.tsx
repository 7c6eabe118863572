/** The side bar: all ring kernels of one notebook. Only the rows in view are asked for, and drawn. */
import { ReactWidget, UseSignal } from '@jupyterlab/ui-components';
import type { CommandRegistry } from '@lumino/commands';
import type { Message } from '@lumino/messaging';
import * as React from 'react';

import { clipped, count, counted, perSecond, plural } from '../look';
import {
  type IFrame,
  type IKernelRef,
  type IRow,
  LONGEST_FILTER,
  type Sort,
  SORTS,
  STATES,
  type Verb,
  VERBS,
  type View,
  VIEWS
} from '../protocol';
import type { IOutside } from '../side';
import type { IModel, ISource, Phase } from '../tokens';
import { Details } from './details';
import { Act, Badge, Queue } from './parts';

/** Height of a row in pixels, as in the style sheet. */
export const ROW = 46;
/** Rows that are asked for above and below those in view, so that scrolling finds them there. */
const MARGIN = 8;
/** Rows that a scroll bar can span: browsers end at some 30 million pixels. */
const MOST_HIGH = 500_000;
const PART = 'panel';

/** What can be done in each state; the kernel has the last word. */
const ALLOWED: Readonly<Record<IRow['state'], readonly Verb[]>> = {
  CREATED: [],
  LAUNCHED: ['activate', 'stop'],
  ACTIVE: ['pause', 'restart', 'stop'],
  DEACTIVATED: ['resume', 'step', 'restart', 'stop'],
  TERMINATING: [],
  TERMINATED: ['restart'],
  FAILED: ['restart']
};

const SORTED: Readonly<Record<Sort, string>> = {
  kernel: 'name',
  state: 'state',
  version: 'version',
  depth: 'queue',
  rate: 'messages a second',
  errors: 'errors',
  restarts: 'restarts',
  deadLetters: 'dead letters'
};

export class KernelsPanel extends ReactWidget {
  constructor(
    private _model: IModel,
    private _outside: IOutside,
    private _hz: number
  ) {
    super();
    this.addClass('pdc-lab-panel');
    _model.changed.connect(this._onChanged, this);
  }

  /** Frames a second that it asks for. */
  set hz(hz: number) {
    this._hz = hz;
    this._wish();
  }

  override dispose(): void {
    this._source?.session.wish(PART, null);
    super.dispose();
  }

  protected override onAfterAttach(message: Message): void {
    super.onAfterAttach(message);
    this._onChanged();
  }

  protected override onAfterShow(): void {
    this._onChanged();
    this.update();
  }

  protected override onBeforeHide(): void {
    this._leave();
  }

  protected override onBeforeDetach(): void {
    this._leave();
  }

  protected override render(): JSX.Element {
    return (
      <UseSignal signal={this._model.changed}>
        {() => (
          <Panel
            model={this._model}
            outside={this._outside}
            range={(first, rows) => {
              this._range = { first, count: rows };
              this._wish();
            }}
          />
        )}
      </UseSignal>
    );
  }

  private _leave(): void {
    this._source?.session.wish(PART, null);
    this._source = null;
  }

  private _onChanged(): void {
    if (!this.isVisible) {
      return;
    }
    if (this._source !== this._model.current) {
      this._source?.session.wish(PART, null);
      this._source = this._model.current;
    }
    this._wish();
  }

  private _wish(): void {
    const { filter, sort, descending, selected } = this._model;
    this._source?.session.wish(PART, {
      hz: this._hz,
      summary: true,
      list: { filter: filter.slice(0, LONGEST_FILTER), sort, descending, ...this._range },
      details: selected
    });
  }

  private _source: ISource | null = null;
  private _range = { first: 0, count: 40 };
}

interface IPanelProps {
  model: IModel;
  outside: IOutside;
  /** Tell which rows are in view. */
  range: (first: number, count: number) => void;
}

function Panel({ model, outside, range }: IPanelProps): JSX.Element {
  const source = model.current;
  const [said, say] = React.useState<{ text: string; bad: boolean } | null>(null);
  const frame = source?.session.frame ?? null;
  const problem = source?.session.problem ?? '';

  React.useEffect(() => say(null), [source]);

  const act = (verb: Verb): void => {
    const { selected } = model;
    if (!source || !selected) {
      return;
    }
    source.session.command(verb, selected.runtime, selected.kernel).then(
      text => say(text ? { text, bad: false } : null),
      (error: Error) => say({ text: error.message, bad: true })
    );
  };
  const open = (view: View, of: IKernelRef | null): void => {
    const runtime = of?.runtime ?? frame?.runtimes.find(({ status }) => status === 'live')?.id;
    if (source && runtime !== undefined) {
      outside.open(source, view, runtime, of?.kernel ?? null);
    }
  };
  return (
    <>
      <Head model={model} frame={frame} />
      {frame && problem && (
        <p className="pdc-lab-said" data-bad="" role="alert">
          {problem}
        </p>
      )}
      {!frame || !source ? (
        <Nothing phase={source ? source.session.phase : null} problem={problem} commands={outside.commands} />
      ) : frame.runtimes.every(({ kernels }) => kernels === 0) ? (
        <NoKernels commands={outside.commands} />
      ) : (
        <>
          <Tools model={model} frame={frame} act={act} />
          <p className="pdc-lab-said" role="status" data-bad={said?.bad ? '' : undefined} hidden={!said}>
            {said?.text}
          </p>
          <List model={model} frame={frame} range={range} />
          {model.selected && frame.details && (
            <Details
              details={frame.details}
              reveal={source.revealer(frame.details.missing === null ? frame.details.cell : null)}
              open={view => open(view, model.selected)}
              close={() => (model.selected = null)}
            />
          )}
          <footer className="pdc-lab-foot">
            Open
            {VIEWS.map(view => (
              <button key={view} className="pdc-lab-plain" onClick={() => open(view, null)}>
                {view}
              </button>
            ))}
          </footer>
        </>
      )}
    </>
  );
}

function Head({ model, frame }: { model: IModel; frame: IFrame | null }): JSX.Element {
  const summary = frame?.summary;
  return (
    <header className="pdc-lab-head">
      <h2>Ring kernels</h2>
      <select
        aria-label="Which notebook"
        value={model.pinned ?? ''}
        disabled={model.sources.length === 0}
        onChange={event => (model.pinned = event.target.value || null)}
      >
        <option value="">{model.current && !model.pinned ? model.current.name : 'the one in front'}</option>
        {model.sources
          .filter(source => model.pinned !== null || source !== model.current)
          .map(source => (
            <option key={source.id} value={source.id}>
              {source.name}
            </option>
          ))}
      </select>
      {summary && (
        <p>
          <b>{perSecond(summary.rate)}</b> msg/s · {count(summary.queued)} queued
          <br />
          {counted(summary.states, STATES) || 'no kernels'}
          {summary.deadLetters > 0 && ` · ${plural(summary.deadLetters, 'dead letter')}`}
        </p>
      )}
    </header>
  );
}

function Tools({ model, frame, act }: { model: IModel; frame: IFrame; act: (verb: Verb) => void }): JSX.Element {
  const selected = model.selected && frame.list?.rows.find(row => same(row, model.selected));
  const details = frame.details?.missing === null && same(frame.details, model.selected) ? frame.details : null;
  const allowed = details?.verbs ?? (selected ? ALLOWED[selected.state] : []);
  return (
    <div className="pdc-lab-tools">
      <div className="pdc-lab-find">
        <input
          type="search"
          placeholder="Filter"
          aria-label="Filter by id, state, backend or runtime"
          title="Words that must all occur in id, state, backend or runtime"
          maxLength={LONGEST_FILTER}
          value={model.filter}
          onChange={event => (model.filter = event.target.value)}
        />
        <select aria-label="Sort by" value={model.sort} onChange={event => model.sortBy(event.target.value as Sort)}>
          {SORTS.map(sort => (
            <option key={sort} value={sort}>
              {SORTED[sort]}
            </option>
          ))}
        </select>
        <button
          className="pdc-lab-plain"
          aria-label={model.descending ? 'Highest first' : 'Lowest first'}
          title={model.descending ? 'Highest first' : 'Lowest first'}
          onClick={() => model.sortBy(model.sort)}
        >
          {model.descending ? '↓' : '↑'}
        </button>
      </div>
      <div
        className="pdc-lab-acts"
        role="toolbar"
        aria-label={`Steer ${model.selected ? clipped(model.selected.kernel, 100) : 'the selected kernel'}`}
      >
        {VERBS.map(verb => (
          <Act key={verb} verb={verb} act={act} disabled={!allowed.includes(verb)} />
        ))}
      </div>
    </div>
  );
}

const same = (a: IKernelRef | null, b: IKernelRef | null): boolean =>
  a !== null && b !== null && a.runtime === b.runtime && a.kernel === b.kernel;

function List({ model, frame, range }: { model: IModel; frame: IFrame; range: IPanelProps['range'] }): JSX.Element {
  const box = React.useRef<HTMLDivElement>(null);
  const list = frame.list ?? { matching: 0, first: 0, rows: [] };
  const names = new Map(
    frame.runtimes.map(({ id, name, status }) => [id, status === 'live' ? name : `${name}, closed`])
  );
  const at = list.rows.findIndex(row => same(row, model.selected));

  const look = (): void => {
    if (box.current) {
      const { scrollTop, clientHeight } = box.current;
      const first = Math.max(0, Math.floor(scrollTop / ROW) - MARGIN);
      range(first, Math.ceil(clientHeight / ROW) + 2 * MARGIN);
    }
  };
  React.useEffect(() => {
    const resized = new ResizeObserver(look);
    resized.observe(box.current!);
    return () => resized.disconnect();
  }, []);

  /** Place of a row that is to be selected when it is there. */
  const awaited = React.useRef<number | null>(null);
  const select = (to: number): void => {
    const row = list.rows[to - list.first];
    awaited.current = row ? null : to;
    if (row) {
      model.selected = { runtime: row.runtime, kernel: row.kernel };
    }
  };
  React.useEffect(() => {
    if (awaited.current !== null && list.rows[awaited.current - list.first]) {
      select(awaited.current);
    }
  }, [frame]);
  const move = (wanted: number): void => {
    const to = Math.max(0, Math.min(wanted, list.matching - 1, MOST_HIGH - 1));
    if (box.current && list.matching > 0) {
      const { scrollTop, clientHeight } = box.current;
      box.current.scrollTop = Math.min(to * ROW, Math.max(scrollTop, (to + 1) * ROW - clientHeight));
      select(to);
    }
  };
  const onKeyDown = (event: React.KeyboardEvent): void => {
    // Without a selection, or with one that is out of reach, the way begins at the first row in view.
    const top = Math.ceil((box.current?.scrollTop ?? 0) / ROW);
    const place = awaited.current ?? (at < 0 ? top - 1 : list.first + at);
    const page = Math.max(1, Math.floor((box.current?.clientHeight ?? 0) / ROW) - 1);
    const to = {
      ArrowDown: place + 1,
      ArrowUp: place - 1,
      PageDown: place + page,
      PageUp: place - page,
      Home: 0,
      End: list.matching - 1
    }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      move(to);
    } else if (event.key === 'Escape') {
      model.selected = null;
    }
  };
  return (
    <div
      className="pdc-lab-list"
      ref={box}
      role="listbox"
      aria-label="Ring kernels"
      tabIndex={0}
      aria-activedescendant={at < 0 ? undefined : `pdc-lab-row-${list.first + at}`}
      onScroll={look}
      onKeyDown={onKeyDown}
    >
      {frame.list?.matching === 0 && (
        <p className="pdc-lab-nothing">No kernel matches “{clipped(model.filter, 60)}”.</p>
      )}
      <div style={{ height: Math.min(list.matching, MOST_HIGH) * ROW }}>
        {list.rows.map((row, i) => (
          <Row
            key={`${row.runtime} ${row.kernel}`}
            row={row}
            at={list.first + i}
            of={list.matching}
            runtime={names.size > 1 ? (names.get(row.runtime) ?? '') : ''}
            selected={i === at}
            select={() => (model.selected = { runtime: row.runtime, kernel: row.kernel })}
          />
        ))}
      </div>
    </div>
  );
}

interface IRowProps {
  row: IRow;
  at: number;
  of: number;
  runtime: string;
  selected: boolean;
  select: () => void;
}

function Row({ row, at, of, runtime, selected, select }: IRowProps): JSX.Element {
  const troubles = [
    row.errors > 0 && plural(row.errors, 'error'),
    row.restarts > 0 && plural(row.restarts, 'restart'),
    row.deadLetters > 0 && plural(row.deadLetters, 'dead letter')
  ].filter(Boolean);
  const rate = row.state === 'ACTIVE' || row.rate ? `${perSecond(row.rate)} msg/s` : '';
  const said = row.note || [rate, ...troubles].filter(Boolean).join(' · ');
  return (
    <div
      id={`pdc-lab-row-${at}`}
      className="pdc-lab-row"
      role="option"
      aria-selected={selected}
      aria-setsize={of}
      aria-posinset={at + 1}
      style={{ top: at * ROW }}
      onClick={select}
      title={[row.kernel, runtime, row.note].filter(Boolean).join('\n')}
    >
      <p>
        <span className="pdc-lab-id">{clipped(row.kernel, 200)}</span>
        <span className="pdc-lab-tag">
          {[runtime, row.tag, row.version > 1 && `v${row.version}`].filter(Boolean).join(' · ')}
        </span>
        <Badge state={row.state} />
      </p>
      <p>
        <Queue depth={row.depth} bound={row.bound} peak={row.peak} />
        <span aria-label={`${count(row.depth)} queued`}>{count(row.depth)}</span>
        <span className="pdc-lab-note" data-bad={row.state === 'FAILED' ? '' : undefined}>
          {said}
        </span>
      </p>
    </div>
  );
}

const WORDS: Readonly<Record<Phase | 'no notebook', readonly [string, string]>> = {
  'no notebook': ['No notebook is open', 'Open one, and its ring kernels appear here.'],
  none: ['No kernel', 'Choose one at the top right of the notebook.'],
  connecting: ['Connecting …', 'The kernel is starting, or busy.'],
  absent: ['No ring kernels here', 'This notebook has not loaded pydotcompute yet. Run this in a cell:'],
  live: ['Connecting …', 'The first numbers are on their way.'],
  shared: ['The same kernel', 'Another notebook or console here has this kernel: its ring kernels are shown there.'],
  restarting: ['Restarting …', 'The ring kernels ended with the former kernel: run their cells again.'],
  disconnected: ['Disconnected', 'The connection to the server is lost. It is tried again by itself.'],
  refused: ['Not understood', '']
};
const LOAD = '%load_ext pydotcompute';

interface INothingProps {
  phase: Phase | null;
  problem: string;
  commands: CommandRegistry;
}

/** Instead of a list: what is the matter, and what to do. */
function Nothing({ phase, problem, commands }: INothingProps): JSX.Element {
  const [title, text] = WORDS[phase ?? 'no notebook'];
  return (
    <div className="pdc-lab-nothing" role="status">
      <h3>{title}</h3>
      <p>{problem || text}</p>
      {phase === 'absent' && (
        <p>
          <code>{LOAD}</code> <button onClick={() => void navigator.clipboard.writeText(LOAD)}>Copy</button>
        </p>
      )}
      {phase === null && <Offer commands={commands} id="pydotcompute:new-notebook" />}
    </div>
  );
}

function NoKernels({ commands }: { commands: CommandRegistry }): JSX.Element {
  return (
    <div className="pdc-lab-nothing" role="status">
      <h3>No ring kernels yet</h3>
      <p>
        Run a cell that begins with <code>%%ring_kernel</code>, or launch one with <code>runtime.launch</code>.
      </p>
      <Offer commands={commands} id="pydotcompute:insert-async" />
    </div>
  );
}

/** A button for a command, if it is there. */
function Offer({ commands, id }: { commands: CommandRegistry; id: string }): JSX.Element | null {
  return commands.hasCommand(id) && commands.isEnabled(id) ? (
    <p>
      <button onClick={() => void commands.execute(id)}>{commands.label(id)}</button>
    </p>
  ) : null;
}
