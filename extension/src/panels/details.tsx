/** One ring kernel: what it has done, why it failed, what it is made of. */
import * as React from 'react';

import { count, duration, perSecond, plural } from '../look';
import type { IDetails, IMissing, View } from '../protocol';
import { Badge } from './parts';

interface IProps {
  details: IDetails | IMissing;
  /** Go to the cell that defines it; null: that is not in this notebook. */
  reveal: (() => void) | null;
  open: (view: View) => void;
  close: () => void;
}

const pair = (p50: number | null, p99: number | null): string =>
  p50 === null ? '–' : `${duration(p50)} / ${duration(p99)}`;

export function Details({ details, reveal, open, close }: IProps): JSX.Element {
  return (
    <section className="pdc-lab-details" aria-label={`Details of ${details.kernel}`}>
      <header>
        <h3 title={details.kernel}>{details.kernel}</h3>
        {details.missing === null && <Badge state={details.state} />}
        <button className="pdc-lab-plain" aria-label="Close details" title="Close details" onClick={close}>
          ×
        </button>
      </header>
      {details.missing !== null ? <p>{details.missing}</p> : <Known details={details} reveal={reveal} open={open} />}
    </section>
  );
}

function Known({ details, reveal, open }: Omit<IProps, 'close' | 'details'> & { details: IDetails }): JSX.Element {
  const of = details.statistics;
  const facts: [string, string][] = [
    ['runs as', `${details.tag} · v${count(details.version)}`],
    ['queued', `${count(of.depth)} of ${count(of.bound)}, most ${count(of.peak)}`],
    ['handled', `${count(of.processed)} of ${count(of.received)}`],
    ['a second', perSecond(of.rate)],
    ['replies', `${count(of.replied)}, ${count(of.unread)} unread`],
    ['wait p50/p99', pair(of.waitP50, of.waitP99)],
    ['handle p50/p99', pair(of.handleP50, of.handleP99)],
    ['errors', `${count(of.errors)}, ${plural(of.restarts, 'restart')}`],
    ['dead letters', `${count(of.deadLetters)}${of.dropped ? `, ${count(of.dropped)} dropped` : ''}`]
  ];
  return (
    <div className="pdc-lab-known">
      {details.error && (
        <div className="pdc-lab-error">
          <p role="alert">{details.error.text}</p>
          <p>{details.error.place}</p>
          <details>
            <summary>Traceback</summary>
            <pre tabIndex={0}>{details.error.traceback}</pre>
          </details>
        </div>
      )}
      {details.waiting && <p>waiting: {details.waiting}</p>}
      <dl>
        {facts.map(([name, value]) => (
          <React.Fragment key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </React.Fragment>
        ))}
      </dl>
      <p className="pdc-lab-buttons">
        {(['dashboard', 'trace'] as const).map(view => (
          <button key={view} onClick={() => open(view)}>
            Open {view}
          </button>
        ))}
        {reveal && <button onClick={reveal}>Go to its cell</button>}
      </p>
      {details.source !== null && (
        <details>
          <summary>Source, from {details.origin}</summary>
          <pre tabIndex={0}>{details.source}</pre>
        </details>
      )}
    </div>
  );
}
