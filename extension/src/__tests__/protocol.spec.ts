/** @jest-environment node */
import Ajv from 'ajv/dist/2020';

import fixtures from '../../protocol/fixtures.json';
import schema from '../../protocol/schema.json';
import { digest, read, STATES, STATISTICS, MEASURES, VERBS, VERSION, VIEWS, written } from '../protocol';

const valid = new Ajv({ strict: false }).compile({ ...schema, $ref: '#/$defs/toKernel' });
const spoken = schema.$defs;

describe('what comes from the kernel', () => {
  it.each(fixtures.toBrowser.good.map(message => [message.kind, message]))('%s is taken', (kind, message) => {
    expect(read(message)).toMatchObject({ kind });
  });

  it.each(fixtures.toBrowser.bad.map(({ why, message }) => [why, message]))('%s is refused in words', (_, message) => {
    const found = read(message);
    expect(found.kind).toBe('malformed');
    expect((found as { text: string }).text).toMatch(/ is .+, not |speaks version/);
  });

  it('has rows by name', () => {
    const frame = fixtures.toBrowser.good.find(message => 'list' in message && message.list?.rows.length)!;
    const found = read(frame);
    const row = (found.kind === 'frame' && found.list?.rows[0]) || null;
    const sent = (frame as any).list.rows[0];
    expect(row).toMatchObject({ runtime: sent[0], kernel: sent[1], state: STATES[sent[3]], note: sent[12] });
  });

  it.each([
    ['NaN', { number: NaN }],
    ['an endless number', { number: Infinity }],
    ['ten megabytes', { list: { matching: 1, first: 0, rows: [[1, 'x'.repeat(1e7), ...new Array(11).fill(0)]] } }],
    ['100,000 rows', { list: { matching: 1e5, first: 0, rows: new Array(1e5).fill([]) } }],
    ['a prototype', JSON.parse('{"__proto__": {"number": 1}}')]
  ])('%s is refused, shortly', (_, other) => {
    const frame = { version: 1, kind: 'frame', number: 1, hz: 2, runtimes: [], summary: null, cells: null };
    const found = read({
      ...frame,
      list: null,
      details: null,
      results: [],
      ...other,
      ...('__proto__' in other ? { x: 1 } : {})
    });
    expect(found.kind).toBe('malformed');
    expect((found as { text: string }).text.length).toBeLessThan(200);
  });

  it('may throw as it is read, and is refused', () => {
    const hostile = new Proxy(
      {},
      {
        getOwnPropertyDescriptor: () => {
          throw new Error('boo');
        }
      }
    );
    expect(read(hostile)).toEqual({ kind: 'malformed', text: 'malformed message' });
  });
});

describe('what goes to the kernel', () => {
  it('fits the schema', () => {
    for (const message of [
      { kind: 'hello', panel: 'key', gone: ['other'] },
      { kind: 'received', number: 3 },
      { kind: 'command', request: 'r', verb: 'pause', runtime: 1, kernel: 'stats' },
      { kind: 'open', request: 'r', view: 'dashboard', runtime: 1, kernel: null },
      { kind: 'close', request: 'r', model: 'm' },
      { kind: 'look', hz: 2, visible: true, summary: true, cells: false, list: null, details: null }
    ] as const) {
      valid(written(message));
      expect(valid.errors).toBeNull();
    }
  });

  it('has the words of the schema', () => {
    expect(spoken.verb.enum).toEqual(VERBS);
    expect(spoken.open.properties.view.enum).toEqual(VIEWS);
    expect(spoken.hello.properties.version.const).toBe(VERSION);
    expect(spoken.state.description).toContain(STATES.join(', '));
    expect([...STATISTICS, ...MEASURES].sort()).toEqual([...spoken.details.properties.statistics.required].sort());
  });
});

test.each([
  ['', 0],
  ['abc', 891568578],
  ['größer 😀\n%%ring_kernel', 2042631596]
])('the digest of %j is that of zlib.crc32 in Python', (source, expected) => {
  expect(digest(source)).toBe(expected);
});
