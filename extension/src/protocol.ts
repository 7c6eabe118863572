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

/** Longest filter, in characters, and most rows that may be asked for. */
export const LONGEST_FILTER = 200;
export const MOST_ROWS = 500;
/** Closed views that a hello may name. */
export const MOST_GONE = 100;

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
  | { kind: 'hello'; panel: string; gone: readonly string[] }
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

/** There is no such kernel. */
export interface IMissing extends IKernelRef {
  /** Why. */
  missing: string;
}

export const STATISTICS = [
  'depth',
  'bound',
  'peak',
  'received',
  'processed',
  'replied',
  'unread',
  'dropped',
  'deadLetters',
  'errors',
  'restarts'
] as const;
/** Those that may be unknown: messages handled per second, and times in seconds. */
export const MEASURES = ['rate', 'busy', 'waitP50', 'waitP99', 'handleP50', 'handleP99'] as const;
export type IStatistics = { [K in (typeof STATISTICS)[number]]: number } & {
  [K in (typeof MEASURES)[number]]: number | null;
};

export interface IDetails extends IKernelRef {
  missing: null;
  tag: string;
  state: State;
  version: number;
  origin: string;
  cell: string | null;
  source: string | null;
  waiting: string;
  error: { text: string; traceback: string; place: string } | null;
  statistics: IStatistics;
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
  details: IDetails | IMissing | null;
  results: readonly IResult[];
}

export type FromKernel =
  IFrame | { kind: 'trouble'; text: string } | { kind: 'acknowledgement'; refused: string | null };

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
    return `a list of ${value.length.toLocaleString('en')}`;
  }
  return value !== null && typeof value === 'object' ? 'an object' : value === undefined ? 'missing' : String(value);
}

function fields(value: unknown, name: string): Fields {
  return value !== null && typeof value === 'object' && !Array.isArray(value)
    ? (value as Fields)
    : fail(name, value, 'an object');
}

const own = (of: Fields, name: string): unknown => (Object.hasOwn(of, name) ? of[name] : undefined);

/** A text of so many characters. A character is one or two units of a string, hence the second count. */
const upTo =
  (most: number, least = 0): Reader<string> =>
  (value, name) =>
    typeof value === 'string' &&
    value.length >= least &&
    (value.length <= most || (value.length <= 2 * most && [...value].length <= most))
      ? value
      : fail(name, value, `a text of ${least ? `${least} to` : 'at most'} ${most.toLocaleString('en')} characters`);

const key = upTo(200, 1);
const line = upTo(1000);
const text = upTo(4000);
const long = upTo(20_000);
const kernel = upTo(1000, 1);

const flag: Reader<boolean> = (value, name) =>
  typeof value === 'boolean' ? value : fail(name, value, 'true or false');

const amount: Reader<number> = (value, name) =>
  typeof value === 'number' && value >= 0 && Number.isFinite(value) ? value : fail(name, value, 'a number from 0 on');

const rate: Reader<number> = (value, name) => {
  const hz = amount(value, name);
  return hz > 0 && hz <= 10 ? hz : fail(name, value, 'above 0 and at most 10');
};

const within =
  (least: number, most: number): Reader<number> =>
  (value, name) =>
    Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most
      ? (value as number)
      : fail(name, value, `a whole number from ${least} on`);

const count = within(0, Number.MAX_SAFE_INTEGER);
const positive = within(1, Number.MAX_SAFE_INTEGER);

const maybe =
  <T>(reader: Reader<T>): Reader<T | null> =>
  (value, name) =>
    value === null ? null : reader(value, name);

const list =
  <T>(reader: Reader<T>, most: number, least = 0): Reader<T[]> =>
  (value, name) =>
    Array.isArray(value) && value.length >= least && value.length <= most
      ? value.map((each, i) => reader(each, `${name}[${i}]`))
      : fail(name, value, `a list of ${least === most ? most : `at most ${most.toLocaleString('en')}`}`);

const oneOf =
  <T extends string>(options: readonly T[]): Reader<T> =>
  (value, name) =>
    options.includes(value as T) ? (value as T) : fail(name, value, `one of ${options.join(', ')}`);

const state: Reader<State> = (value, name) => STATES[count(value, name)] ?? fail(name, value, 'the number of a state');

const states = list(count, STATES.length, STATES.length);

/** A reader of objects with these fields, and no others. */
function object<T>(readers: { [K in keyof T]: Reader<T[K]> }): Reader<T> {
  return (value, name) => {
    const of = fields(value, name || 'the message');
    const result = {} as T;
    for (const each in readers) {
      result[each] = readers[each](own(of, each), name ? `${name}.${each}` : each);
    }
    for (const each in of) {
      if (!Object.hasOwn(readers, each)) {
        fail(`${name || 'the message'} has a field that`, each, 'known');
      }
    }
    return result;
  };
}

const runtime = object<IRuntime>({ id: positive, name: line, status: oneOf(['live', 'closed']), kernels: count });

const summary = object<ISummary>({
  kernels: count,
  states,
  queued: count,
  rate: maybe(amount),
  lag: maybe(amount),
  deadLetters: count
});

const cell = object<ICell>({
  cell: key,
  digest: within(0, 2 ** 32 - 1),
  number: count,
  runtime: positive,
  kernel,
  kernels: positive,
  states,
  version: count,
  queued: count,
  failed: maybe(line)
});

/** Rows travel as lists, in this order. */
const COLUMNS: readonly (readonly [keyof IRow, Reader<any>])[] = [
  ['runtime', positive],
  ['kernel', kernel],
  ['tag', line],
  ['state', state],
  ['version', count],
  ['depth', count],
  ['bound', count],
  ['peak', count],
  ['rate', maybe(amount)],
  ['errors', count],
  ['restarts', count],
  ['deadLetters', count],
  ['note', line]
];

const row: Reader<IRow> = (value, name) => {
  if (!Array.isArray(value) || value.length !== COLUMNS.length) {
    return fail(name, value, `a list of ${COLUMNS.length}`);
  }
  const result = {} as { [K in keyof IRow]: any };
  COLUMNS.forEach(([column, reader], i) => (result[column] = reader(value[i], `${name}.${column}`)));
  return result;
};

const rows = object<IList>({ matching: count, first: count, rows: list(row, MOST_ROWS) });

const statistics = object<IStatistics>(
  Object.fromEntries([...STATISTICS.map(name => [name, count]), ...MEASURES.map(name => [name, maybe(amount)])]) as {
    [K in keyof IStatistics]: Reader<IStatistics[K]>;
  }
);

const verbs: Reader<Verb[]> = (value, name) => {
  const found = list(oneOf(VERBS), VERBS.length)(value, name);
  return new Set(found).size === found.length ? found : fail(name, value, 'a list without repetitions');
};

const missing = object<IMissing>({ runtime: positive, kernel, missing: text });

const found = object<IDetails>({
  runtime: positive,
  kernel,
  missing: (value, name) => (value === null ? null : fail(name, value, 'null')),
  tag: line,
  state,
  version: count,
  origin: line,
  cell: maybe(key),
  source: maybe(long),
  waiting: line,
  error: maybe(object<NonNullable<IDetails['error']>>({ text, traceback: long, place: line })),
  statistics,
  verbs
});

const details: Reader<IDetails | IMissing> = (value, name) =>
  typeof own(fields(value, name), 'missing') === 'string' ? missing(value, name) : found(value, name);

const result: Reader<IResult> = (value, name) => {
  const data = maybe(object<{ model: string }>({ model: key }));
  const told = object({ request: key, ok: flag, text, data })(value, name);
  return { request: told.request, ok: told.ok, text: told.text, model: told.data?.model ?? null };
};

const head = { version: (value: unknown) => value, kind: (value: unknown) => value };

const frame = object<Omit<IFrame, 'kind'> & { version: unknown; kind: unknown }>({
  ...head,
  number: count,
  hz: rate,
  runtimes: list(runtime, 1000),
  summary: maybe(summary),
  cells: maybe(list(cell, 1000)),
  list: maybe(rows),
  details: maybe(details),
  results: list(result, 20)
});

const trouble = object({ ...head, text });
const acknowledgement = object({ ...head, refused: maybe(text) });

function checked(data: unknown): FromKernel | IMalformed {
  const of = fields(data, 'the message');
  const version = own(of, 'version');
  if (version !== VERSION) {
    const kernels = `the kernel speaks version ${shown(version)} of the wire, this page version ${VERSION}`;
    return { kind: 'malformed', text: `${kernels}: restart the kernel and reload the page after an update` };
  }
  switch (own(of, 'kind')) {
    case 'frame':
      return { ...frame(of, ''), kind: 'frame' };
    case 'trouble':
      return { kind: 'trouble', text: trouble(of, '').text };
    case 'acknowledgement':
      return { kind: 'acknowledgement', refused: acknowledgement(of, '').refused };
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
