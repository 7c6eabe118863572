/**
 * The wire between this extension and `pydotcompute/jupyter/panel.py`, version 1; `protocol/schema.json` is what both
 * are held to.
 *
 * What comes from the kernel is never trusted: `read` looks at all of it before anything else sees it, and answers
 * with words, not with an exception, when it is not as it should be.
 */

export const VERSION = 1;
/** Target of the comm on which the browser asks; the kernel only acknowledges there. */
export const CONTROL = 'pydotcompute.panel';
/** Target of the comm on which the kernel sends frames. */
export const FRAMES = 'pydotcompute.panel.frames';

/** The states of a ring kernel, in the order of the wire. */
export const STATES = ['CREATED', 'LAUNCHED', 'ACTIVE', 'DEACTIVATED', 'TERMINATING', 'TERMINATED', 'FAILED'] as const;
export type State = (typeof STATES)[number];

export const VERBS = ['activate', 'pause', 'resume', 'step', 'stop', 'restart'] as const;
export type Verb = (typeof VERBS)[number];

export const VIEWS = ['dashboard', 'trace', 'topology'] as const;
export type View = (typeof VIEWS)[number];

export const SORTS = ['kernel', 'state', 'version', 'depth', 'rate', 'errors', 'restarts', 'deadLetters'] as const;
export type Sort = (typeof SORTS)[number];

/** Longest text that is taken from a kernel, in UTF-16 units. */
export const LONGEST_TEXT = 100_000;
/** Most rows, cells, runtimes or results that one frame may have. */
export const MOST = { rows: 500, cells: 5000, runtimes: 1000, results: 200 };
/** Longest filter, and most rows that may be asked for. */
export const LONGEST_FILTER = 200;

export interface IKernelRef {
  runtime: number;
  kernel: string;
}

export interface IListWish {
  filter: string;
  sort: Sort;
  descending: boolean;
  first: number;
  count: number;
}

/** What the browser wants to be sent. */
export interface ILook {
  hz: number;
  visible: boolean;
  summary: boolean;
  cells: boolean;
  list: IListWish | null;
  details: IKernelRef | null;
}

export type ToKernel =
  | { kind: 'hello'; panel: string }
  | ({ kind: 'look' } & ILook)
  | { kind: 'received'; number: number }
  | { kind: 'command'; request: string; verb: Verb; runtime: number; kernel: string }
  | { kind: 'open'; request: string; view: View; runtime: number; kernel: string | null }
  | { kind: 'close'; request: string; model: string };

export interface IRuntime {
  id: number;
  name: string;
  status: 'live' | 'closed';
  kernels: number;
}

export interface ISummary {
  kernels: number;
  /** How many kernels are in each of `STATES`. */
  states: readonly number[];
  queued: number;
  /** Messages handled per second; null: not known yet. */
  rate: number | null;
  /** Seconds that the event loop is late. */
  lag: number | null;
  deadLetters: number;
}

/** The ring kernels that one cell of the notebook defines. */
export interface ICell {
  cell: string;
  /** CRC-32 of the UTF-8 source that was run. */
  digest: number;
  /** Execution count. */
  number: number;
  runtime: number;
  /** The only one, or the one in the worst state. */
  kernel: string;
  kernels: number;
  states: readonly number[];
  version: number;
  queued: number;
  failed: string | null;
}

export interface IRow {
  runtime: number;
  kernel: string;
  tag: string;
  state: State;
  version: number;
  depth: number;
  bound: number;
  peak: number;
  rate: number | null;
  errors: number;
  restarts: number;
  deadLetters: number;
  /** Why it failed, or what it waits for. */
  note: string;
}

export interface IList {
  matching: number;
  first: number;
  rows: readonly IRow[];
}

export interface IDetails extends IKernelRef {
  /** Why there is nothing to show. */
  missing: string | null;
  tag: string;
  state: State;
  version: number;
  origin: string;
  cell: string | null;
  source: string | null;
  waiting: string;
  error: { text: string; traceback: string; place: string } | null;
  statistics: ReadonlyMap<string, number | null>;
  verbs: readonly Verb[];
}

export interface IResult {
  request: string;
  ok: boolean;
  text: string;
  model: string | null;
}

export interface IFrame {
  kind: 'frame';
  number: number;
  hz: number;
  runtimes: readonly IRuntime[];
  summary: ISummary | null;
  cells: readonly ICell[] | null;
  list: IList | null;
  details: IDetails | null;
  results: readonly IResult[];
}

export type FromKernel =
  | IFrame
  | { kind: 'trouble'; text: string }
  | { kind: 'acknowledgement'; refused: string | null };

/** What `read` says of a message that is not as it should be. */
export interface IMalformed {
  kind: 'malformed';
  text: string;
}

/** A message for the kernel, as it goes out. */
export function written(message: ToKernel): { [key: string]: any } {
  return { version: VERSION, ...message };
}

/** Look at a message of the kernel. Never throws. */
export function read(data: unknown): FromKernel | IMalformed {
  try {
    return checked(data);
  } catch (error) {
    // A getter or a Proxy cannot come out of JSON; should one come nevertheless, what it throws is refused like the rest.
    return { kind: 'malformed', text: error instanceof Malformed ? error.message : 'malformed message' };
  }
}

class Malformed extends Error {}

type Fields = { [name: string]: unknown };
type Reader<T> = (value: unknown, name: string) => T;

function fail(name: string, value: unknown, wanted: string): never {
  throw new Malformed(`${name} is ${shown(value)}, not ${wanted}`);
}

/** Something of the kernel in words, short. */
function shown(value: unknown): string {
  if (typeof value === 'string') {
    return value.length <= 40 ? JSON.stringify(value) : `a text of ${value.length.toLocaleString('en')} characters`;
  }
  if (Array.isArray(value)) {
    return `a list of ${value.length}`;
  }
  return value !== null && typeof value === 'object' ? 'an object' : String(value);
}

function fields(value: unknown, name: string): Fields {
  return value !== null && typeof value === 'object' && !Array.isArray(value)
    ? (value as Fields)
    : fail(name, value, 'an object');
}

function own(of: Fields, name: string): unknown {
  return Object.prototype.hasOwnProperty.call(of, name) ? of[name] : undefined;
}

const text: Reader<string> = (value, name) =>
  typeof value === 'string' && value.length <= LONGEST_TEXT
    ? value
    : fail(name, value, `a text of at most ${LONGEST_TEXT.toLocaleString('en')} characters`);

const flag: Reader<boolean> = (value, name) => (typeof value === 'boolean' ? value : fail(name, value, 'true or false'));

const number: Reader<number> = (value, name) =>
  typeof value === 'number' && Number.isFinite(value) ? value : fail(name, value, 'a number');

const amount: Reader<number> = (value, name) =>
  typeof value === 'number' && value >= 0 && Number.isFinite(value) ? value : fail(name, value, 'a number from 0 on');

const whole: Reader<number> = (value, name) =>
  Number.isSafeInteger(value) && (value as number) >= 0 ? (value as number) : fail(name, value, 'a whole number from 0 on');

const maybe =
  <T>(reader: Reader<T>): Reader<T | null> =>
  (value, name) =>
    value === null ? null : reader(value, name);

const list =
  <T>(reader: Reader<T>, most: number): Reader<T[]> =>
  (value, name) => {
    if (!Array.isArray(value) || value.length > most) {
      return fail(name, value, `a list of at most ${most.toLocaleString('en')}`);
    }
    return value.map((each, i) => reader(each, `${name}[${i}]`));
  };

const oneOf =
  <T extends string>(options: readonly T[]): Reader<T> =>
  (value, name) =>
    options.includes(value as T) ? (value as T) : fail(name, value, `one of ${options.join(', ')}`);

const state: Reader<State> = (value, name) => STATES[whole(value, name)] ?? fail(name, value, 'the number of a state');

const states: Reader<number[]> = (value, name) => {
  const counts = list(whole, STATES.length)(value, name);
  return counts.length === STATES.length ? counts : fail(name, value, `a list of ${STATES.length}`);
};

/** A reader of objects with these fields. */
function object<T>(readers: { [K in keyof T]: Reader<T[K]> }): Reader<T> {
  return (value, name) => {
    const of = fields(value, name);
    const result = {} as T;
    for (const key in readers) {
      result[key] = readers[key](own(of, key), name ? `${name}.${key}` : key);
    }
    return result;
  };
}

const runtime = object<IRuntime>({ id: whole, name: text, status: oneOf(['live', 'closed']), kernels: whole });

const summary = object<ISummary>({
  kernels: whole,
  states,
  queued: whole,
  rate: maybe(amount),
  lag: maybe(amount),
  deadLetters: whole
});

const cell = object<ICell>({
  cell: text,
  digest: whole,
  number: whole,
  runtime: whole,
  kernel: text,
  kernels: whole,
  states,
  version: whole,
  queued: whole,
  failed: maybe(text)
});

/** Rows travel as lists, in this order. */
const COLUMNS: readonly [keyof IRow, Reader<any>][] = [
  ['runtime', whole],
  ['kernel', text],
  ['tag', text],
  ['state', state],
  ['version', whole],
  ['depth', whole],
  ['bound', whole],
  ['peak', whole],
  ['rate', maybe(amount)],
  ['errors', whole],
  ['restarts', whole],
  ['deadLetters', whole],
  ['note', text]
];

const row: Reader<IRow> = (value, name) => {
  if (!Array.isArray(value) || value.length !== COLUMNS.length) {
    return fail(name, value, `a list of ${COLUMNS.length}`);
  }
  const result = {} as { [K in keyof IRow]: any };
  COLUMNS.forEach(([column, reader], i) => (result[column] = reader(value[i], `${name}.${column}`)));
  return result;
};

const rows = object<IList>({ matching: whole, first: whole, rows: list(row, MOST.rows) });

const statistics: Reader<Map<string, number | null>> = (value, name) => {
  const entries = Object.entries(fields(value, name));
  if (entries.length > 100) {
    return fail(name, value, 'an object of at most 100 numbers');
  }
  return new Map(entries.map(([key, each]) => [text(key, name), maybe(number)(each, `${name}.${key}`)]));
};

const details = object<IDetails>({
  runtime: whole,
  kernel: text,
  missing: maybe(text),
  tag: text,
  state,
  version: whole,
  origin: text,
  cell: maybe(text),
  source: maybe(text),
  waiting: text,
  error: maybe(object<NonNullable<IDetails['error']>>({ text, traceback: text, place: text })),
  statistics,
  verbs: list(oneOf(VERBS), VERBS.length)
});

const model = object<{ model: string }>({ model: text });

const result: Reader<IResult> = (value, name) => {
  const told = object({ request: text, ok: flag, text })(value, name);
  return { ...told, model: maybe(model)(own(fields(value, name), 'data') ?? null, `${name}.data`)?.model ?? null };
};

const frame = object<Omit<IFrame, 'kind'>>({
  number: whole,
  hz: amount,
  runtimes: list(runtime, MOST.runtimes),
  summary: maybe(summary),
  cells: maybe(list(cell, MOST.cells)),
  list: maybe(rows),
  details: maybe(details),
  results: list(result, MOST.results)
});

function checked(data: unknown): FromKernel | IMalformed {
  const of = fields(data, 'the message');
  const version = own(of, 'version');
  if (version !== VERSION) {
    const kernels = `the kernel speaks version ${shown(version)} of the wire, this page version ${VERSION}`;
    return { kind: 'malformed', text: `${kernels}: restart the kernel and reload the page after an update` };
  }
  switch (own(of, 'kind')) {
    case 'frame':
      return { kind: 'frame', ...frame(of, '') };
    case 'trouble':
      return { kind: 'trouble', text: text(own(of, 'text'), 'text') };
    case 'acknowledgement':
      return { kind: 'acknowledgement', refused: maybe(text)(own(of, 'refused'), 'refused') };
    default:
      return fail('kind', own(of, 'kind'), 'frame, trouble or acknowledgement');
  }
}

/** CRC-32 (ISO 3309, that of zlib) of a text in UTF-8. */
export function digest(source: string): number {
  let crc = ~0;
  for (const byte of new TextEncoder().encode(source)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) {
      crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
    }
  }
  return ~crc >>> 0;
}
