/** Small parts that the panels draw with. Whatever comes from a kernel is drawn as text. */
import * as React from 'react';

import { ACTS, LOOK } from '../look';
import type { State, Verb } from '../protocol';

export const Shape = ({ path }: { path: string }): JSX.Element => (
  <svg className="pdc-lab-shape" viewBox="0 0 10 10" aria-hidden="true">
    <path d={path} />
  </svg>
);

/** Shape, colour and word. */
export const Badge = ({ state }: { state: State }): JSX.Element => (
  <span className="pdc-lab-state" data-tone={LOOK[state].tone}>
    <Shape path={LOOK[state].shape} />
    {LOOK[state].word}
  </span>
);

/** How full a mailbox is, and how full it has been. */
export function Queue({ depth, bound, peak }: { depth: number; bound: number; peak: number }): JSX.Element {
  const share = (n: number): string => `${bound > 0 ? Math.min(100, (100 * n) / bound) : 0}%`;
  return (
    <span className="pdc-lab-queue" data-full={bound > 0 && depth >= bound ? '' : undefined} aria-hidden="true">
      <i style={{ width: share(peak) }} />
      <b style={{ width: share(depth) }} />
    </span>
  );
}

export const Act = (props: { verb: Verb; disabled: boolean; act: (verb: Verb) => void }): JSX.Element => (
  <button
    className="pdc-lab-act"
    title={ACTS[props.verb].word}
    aria-label={ACTS[props.verb].word}
    disabled={props.disabled}
    onClick={() => props.act(props.verb)}
  >
    <Shape path={ACTS[props.verb].shape} />
  </button>
);
