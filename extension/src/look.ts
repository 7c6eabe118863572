/** Words, shapes and numbers, the same as in the widgets. */
import type { State, Verb } from './protocol';

const RING = 'M5 .7a4.3 4.3 0 1 0 0 8.6a4.3 4.3 0 1 0 0-8.6zm0 1.6a2.7 2.7 0 1 1 0 5.4a2.7 2.7 0 1 1 0-5.4z';

/** What a state looks like: its word, its tone, and its shape on 10 by 10 units. */
export const LOOK: Readonly<Record<State, { word: string; tone: string; shape: string }>> = {
  CREATED: { word: 'created', tone: 'idle', shape: RING },
  LAUNCHED: { word: 'launched', tone: 'idle', shape: RING },
  ACTIVE: { word: 'active', tone: 'ok', shape: 'M5 .5a4.5 4.5 0 1 0 0 9a4.5 4.5 0 1 0 0-9z' },
  DEACTIVATED: { word: 'paused', tone: 'warn', shape: 'M1 1h3v8h-3zM6 1h3v8h-3z' },
  TERMINATING: { word: 'stopping', tone: 'warn', shape: 'M5 .5a4.5 4.5 0 1 0 0 9z' },
  TERMINATED: { word: 'ended', tone: 'idle', shape: 'M1 1h8v8h-8z' },
  FAILED: { word: 'failed', tone: 'bad', shape: 'M5 .5l4.8 9h-9.6z' }
};

/** What buttons say, and their icons on 10 by 10 units. */
export const ACTS: Readonly<Record<Verb, { word: string; shape: string }>> = {
  activate: { word: 'Activate', shape: `${RING}M4 3.1l3.2 1.9l-3.2 1.9z` },
  pause: { word: 'Pause', shape: 'M1.5 1h2.5v8h-2.5zM6 1h2.5v8h-2.5z' },
  resume: { word: 'Resume', shape: 'M2 .5l7 4.5l-7 4.5z' },
  step: { word: 'Step', shape: 'M1 .5l5.5 4.5l-5.5 4.5zM7 1h2v8h-2z' },
  stop: { word: 'Stop', shape: 'M1.5 1.5h7v7h-7z' },
  restart: {
    word: 'Restart',
    shape: 'M5 1.2a3.8 3.8 0 1 0 3.8 3.8h-1.3a2.5 2.5 0 1 1-2.5-2.5v1.7l3-2.4l-3-2.3z'
  }
};

const NUMBER = new Intl.NumberFormat('en');

export const count = (n: number): string => NUMBER.format(n);

/** `one` or `many` of something. */
export const plural = (n: number, what: string): string => `${count(n)} ${what}${n === 1 ? '' : 's'}`;

/** Messages a second: "0.4", "1,234", "123 k", "12.3 M"; "–" when it is not known. */
export function perSecond(rate: number | null): string {
  if (rate === null) {
    return '–';
  }
  for (const [unit, scale] of [
    ['G', 1e9],
    ['M', 1e6],
    ['k', 1e3]
  ] as const) {
    const value = rate / scale;
    if (value >= (unit === 'k' ? 99.95 : 0.9995)) {
      return `${value.toFixed(value < 9.995 ? 2 : value < 99.95 ? 1 : 0)} ${unit}`;
    }
  }
  return rate === 0 ? '0' : rate < 9.95 ? rate.toFixed(1) : count(Math.round(rate));
}

/** Seconds: "88 µs", "1.2 ms"; "–" when they are not known. */
export function duration(seconds: number | null): string {
  if (seconds === null) {
    return '–';
  }
  for (const [unit, scale] of [
    ['ns', 1e9],
    ['µs', 1e6],
    ['ms', 1e3]
  ] as const) {
    const value = seconds * scale;
    if (value < 999.5) {
      return `${unit !== 'ns' && value < 9.95 ? value.toFixed(1) : Math.round(value)} ${unit}`;
    }
  }
  return `${seconds < 9.95 ? seconds.toFixed(1) : count(Math.round(seconds))} s`;
}

/** A text of at most so many characters. */
export function clipped(text: string, most: number): string {
  return text.length <= most ? text : `${text.slice(0, most - 1)}…`;
}

/** Which of several states is told first. */
export const WORST_FIRST: readonly State[] = [
  'FAILED',
  'ACTIVE',
  'DEACTIVATED',
  'TERMINATING',
  'LAUNCHED',
  'CREATED',
  'TERMINATED'
];

/** How many kernels are in which state, those in trouble first: "1 failed · 3 active". */
export function counted(states: readonly number[], words: readonly State[]): string {
  return WORST_FIRST.map(state => ({ n: states[words.indexOf(state)] ?? 0, word: LOOK[state].word }))
    .filter(({ n }) => n > 0)
    .map(({ n, word }) => `${count(n)} ${word}`)
    .join(' · ');
}
